// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/deltaplane/deltaplane/internal/lab/capture"
	"github.com/deltaplane/deltaplane/internal/lab/fabric"
	"github.com/deltaplane/deltaplane/internal/lab/space"
)

// Outside is the name of the client that is in every lab.
const Outside = "outside"

// client is a host on the fabric that is no node.
type client struct {
	*place
	host *fabric.Host
}

// AddClient puts another client on the fabric, whose name is that of a place from then on.
func (l *Lab) AddClient(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	addrs := slices.Clone(fabric.OutsideAddrs)
	for i := range addrs {
		for range l.clients {
			addrs[i] = addrs[i].Next()
		}
	}
	host, err := l.fabric.AddHost(name, name, addrs, nil)
	if err != nil {
		return err
	}
	place, err := l.newPlace(name, host.Namespace, filepath.Join(l.root.Path(), name))
	if err != nil {
		return err
	}
	l.clients[name] = &client{place, host}
	return nil
}

// clientOf returns the client of a name, or nil.
func (l *Lab) clientOf(name string) *client {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients[name]
}

// Lead sends a client's packets to Services through a node from now on, those of open connections too, as a network does
// that finds another way. Sockets that chose a way keep it.
func (l *Lab) Lead(name, node string) error {
	c, n := l.clientOf(name), l.node(strings.TrimPrefix(node, "node/"))
	if c == nil || n == nil {
		return fmt.Errorf("lead %s through %s: want a client, of %s, and node/NAME, of %s",
			name, node, strings.Join(l.clientNames(), ", "), strings.Join(l.Nodes(), ", "))
	}
	return l.fabric.Lead(c.host, n.host)
}

func (l *Lab) clientNames() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.clients))
}

// Capture keeps the frames that pass a place's link to the fabric, or a pod's to its node. The caller closes it.
func (l *Lab) Capture(place string) (*capture.Capture, error) {
	p, err := l.place(place)
	if err != nil {
		return nil, err
	}
	return capture.On(p.namespace, fabric.Uplink)
}

// SumUp has every host and pod that is there fill in the checksums of what it sends, as network cards do.
func (l *Lab) SumUp() error {
	var errs []error
	for _, p := range l.State().Places {
		errs = append(errs, fabric.SumUp(space.OpenNamespace(p.Namespace), fabric.Uplink))
	}
	return errors.Join(errs...)
}
