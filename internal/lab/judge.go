// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
	"github.com/deltaplane/deltaplane/internal/model"
	"github.com/deltaplane/deltaplane/internal/refmodel"
	"github.com/deltaplane/deltaplane/internal/wire"
	"github.com/deltaplane/deltaplane/schemas"
)

// judge answers a probe without a kernel: the reference model decides by the rows that the node's programmer holds.
func (l *Lab) judge(ctx context.Context, r ProbeRequest) (*ProbeReport, error) {
	if r.Protocol == "" {
		r.Protocol = "tcp"
	}
	protocol, err := model.ParseProtocol(strings.ToLower(r.Protocol))
	if err != nil {
		return nil, err
	}
	to, err := l.Resolve(r.To, r.Family)
	if err != nil {
		return nil, err
	}
	node, client, err := l.standing(r.From, to.Addr())
	if err != nil {
		return nil, err
	}
	report := &ProbeReport{From: r.From, To: r.To, Protocol: r.Protocol}
	for range max(r.Count, 1) {
		start := time.Now()
		tables, err := l.actual(ctx, node)
		if err != nil {
			return nil, err
		}
		result := l.verdict(refmodel.New(refmodel.NewLayer(tables)).Decide(refmodel.Dialler{Via: refmodel.PodSocket, Addr: client}, protocol, to), to)
		result.ClientAddress, result.LatencyMicros = client.String(), time.Since(start).Microseconds()
		report.Results = append(report.Results, result)
	}
	return report, nil
}

// verdict follows a decision to the pod that would answer.
func (l *Lab) verdict(d refmodel.Decision, to netip.AddrPort) agent.Result {
	switch {
	case d.Verdict == refmodel.Reject:
		return agent.Result{Outcome: agent.Refused, Error: d.Reason.String()}
	case d.Verdict != refmodel.Forward:
		return agent.Result{Outcome: agent.Timeout, Error: d.Reason.String()}
	case len(d.Candidates) > 0:
		to = refmodel.AddrPort(d.Candidates[rand.IntN(len(d.Candidates))])
	}
	for _, p := range l.Cluster().Pods {
		if slices.Contains(manifest.PodAddrs(p), to.Addr()) && l.pod(manifest.Name(p)) != nil {
			return agent.Result{Outcome: agent.OK, Reached: manifest.Name(p)}
		}
	}
	return agent.Result{Outcome: agent.Timeout, Error: fmt.Sprintf("no pod has the address %s", to.Addr())}
}

// standing finds the node that decides for a place, and the address that the place has.
func (l *Lab) standing(from string, like netip.Addr) (node string, addr netip.Addr, err error) {
	cluster := l.Cluster()
	addrs := []netip.Addr(nil)
	if name, ok := strings.CutPrefix(from, "node/"); ok {
		for _, n := range cluster.Nodes {
			if n.Name == name {
				node, addrs = name, manifest.NodeAddrs(n)
			}
		}
	} else if p := findPod(cluster, from); p != nil {
		node, addrs = p.Spec.NodeName, manifest.PodAddrs(p)
	}
	if node == "" {
		return "", addr, fmt.Errorf("there is no place %q: without a kernel want NS/POD or node/NAME", from)
	}
	for _, a := range addrs {
		if a.Is4() == like.Is4() {
			addr = a
		}
	}
	return node, addr, nil
}

// actual reads all rows that a node's programmer holds.
func (l *Lab) actual(ctx context.Context, node string) (*model.Tables, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	request, err := proto.Marshal(&schemas.DumpRequest{Node: node})
	if err != nil {
		return nil, err
	}
	tables := model.NewTables()
	err = l.conn.RequestMany(ctx, schemas.ActualSubject(node), request, func(data []byte) (bool, error) {
		var reply schemas.DumpReply
		if err := wire.Unmarshal(data, &reply); err != nil {
			return false, err
		}
		if refused := reply.GetRefused(); refused != "" {
			return false, fmt.Errorf("the programmer refuses: %s", refused)
		}
		rows, err := wire.RowsFromProto(reply.GetRows())
		if err != nil {
			return false, err
		}
		tables.Apply(&model.Change{Put: rows}, model.Digest{})
		return !reply.GetLast(), nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the rows of node %s: %w", node, err)
	}
	return tables, nil
}

// judgeOnAndOn is Load without a kernel.
func (l *Lab) judgeOnAndOn(r ProbeRequest, interval time.Duration) func(context.Context) (*agent.Load, error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan *agent.Load, 1)
	go func() {
		done <- agent.Repeat(ctx, interval, func() agent.Result {
			report, err := l.judge(context.WithoutCancel(ctx), r)
			if err != nil {
				return agent.Result{Outcome: agent.Unreachable, Error: err.Error()}
			}
			return report.Results[0]
		})
	}()
	return func(ctx context.Context) (*agent.Load, error) {
		cancel()
		select {
		case load := <-done:
			return load, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
