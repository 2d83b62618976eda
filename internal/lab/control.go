// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deltaplane/deltaplane/internal/lab/space"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

// The control socket speaks HTTP with JSON; only root can open it.
const (
	pathApply  = "/apply"
	pathDelete = "/delete"
	pathProbe  = "/probe"
	pathPlace  = "/place"
)

// changeRequest carries objects as YAML.
type changeRequest struct {
	YAML []byte `json:"yaml"`
	Wait bool   `json:"wait"`
}

type placeRequest struct {
	Name string `json:"name"`
}

// Serve answers on the lab's control socket until ctx ends.
func (l *Lab) Serve(ctx context.Context) error {
	listener, err := net.Listen("unix", l.dir.socket())
	if err != nil {
		return fmt.Errorf("listen for lab commands: %w", err)
	}
	if err := os.Chmod(l.dir.socket(), 0o600); err != nil {
		return errors.Join(fmt.Errorf("listen for lab commands: %w", err), listener.Close())
	}
	// What a client has asked for goes on when it hangs up, but not when the lab ends.
	mux := http.NewServeMux()
	mux.Handle("POST "+pathApply, handle(func(_ context.Context, r changeRequest) (any, error) {
		return nil, l.changeBy(ctx, r, manifest.Loader{}, l.Apply)
	}))
	mux.Handle("POST "+pathDelete, handle(func(_ context.Context, r changeRequest) (any, error) {
		return nil, l.changeBy(ctx, r, manifest.Loader{NamesOnly: true}, l.Delete)
	}))
	mux.Handle("POST "+pathProbe, handle(func(ctx context.Context, r ProbeRequest) (any, error) { return l.Probe(ctx, r) }))
	mux.Handle("POST "+pathPlace, handle(func(_ context.Context, r placeRequest) (any, error) { return l.Place(r.Name) }))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve lab commands: %w", err)
	}
	return nil
}

func (l *Lab) changeBy(ctx context.Context, r changeRequest, loader manifest.Loader, change func(context.Context, *manifest.Objects) error) error {
	loader.Decode("standard input", r.YAML)
	objects := loader.Objects()
	if err := objects.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ChangeTimeout)
	if r.Wait {
		defer cancel()
		return change(ctx, objects)
	}
	go func() {
		defer cancel()
		if err := change(ctx, objects); err != nil {
			l.log.Error("a change that nobody waits for failed", "error", err)
		}
	}()
	return nil
}

// ChangeTimeout bounds how long a change may take until it is live everywhere.
const ChangeTimeout = 2 * time.Minute

// Place finds where a name points to, for processes that are started by others.
func (l *Lab) Place(name string) (Place, error) {
	p, err := l.place(name)
	if err != nil {
		return Place{}, err
	}
	return Place{p.name, p.namespace.Path(), p.cgroup.Path()}, nil
}

type failure struct {
	Error string `json:"error"`
}

func handle[R any](do func(context.Context, R) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		var r R
		var answer any
		err := json.NewDecoder(request.Body).Decode(&r)
		if err == nil {
			answer, err = do(request.Context(), r)
		}
		if err != nil {
			w.WriteHeader(http.StatusUnprocessableEntity)
			answer = failure{err.Error()}
		}
		// If the client has gone, nobody misses the answer.
		_ = json.NewEncoder(w).Encode(answer)
	})
}

// Control speaks to a lab that another process runs.
type Control struct{ client *http.Client }

// Connect finds the lab with this name.
func Connect(name string) (*Control, error) {
	if _, err := ReadState(name); err != nil {
		return nil, err
	}
	d, err := dirOf(name)
	if err != nil {
		return nil, err
	}
	return &Control{&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialSoon(ctx, d.socket())
		},
	}}}, nil
}

// startTime is how long a lab that is being built may take to open its socket.
const startTime = 10 * time.Second

// dialSoon waits for a lab that has just been started.
func dialSoon(ctx context.Context, socket string) (connection net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	var dialer net.Dialer
	waited := space.Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		connection, err = dialer.DialContext(ctx, "unix", socket)
		return err == nil || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED), nil
	})
	if waited != nil && err == nil {
		err = waited
	}
	return connection, err
}

// Apply applies YAML; with wait it returns when that is live on every node.
func (c *Control) Apply(ctx context.Context, yaml []byte, wait bool) error {
	return c.ask(ctx, pathApply, changeRequest{yaml, wait}, nil)
}

// Delete deletes the objects that YAML names.
func (c *Control) Delete(ctx context.Context, yaml []byte, wait bool) error {
	return c.ask(ctx, pathDelete, changeRequest{yaml, wait}, nil)
}

// Probe connects from inside the lab.
func (c *Control) Probe(ctx context.Context, r ProbeRequest) (*ProbeReport, error) {
	report := &ProbeReport{}
	return report, c.ask(ctx, pathProbe, r, report)
}

// Place finds where a name points to.
func (c *Control) Place(ctx context.Context, name string) (Place, error) {
	var p Place
	return p, c.ask(ctx, pathPlace, placeRequest{name}, &p)
}

func (c *Control) ask(ctx context.Context, path string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://lab"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the lab: %w", err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("ask the lab: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var f failure
		if json.Unmarshal(data, &f) != nil {
			return fmt.Errorf("ask the lab: %s: %s", response.Status, data)
		}
		return errors.New(f.Error)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(data, answer)
}
