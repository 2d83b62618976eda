// SPDX-License-Identifier: Apache-2.0

// Package bus is the way to NATS: one connection that never gives up, publish and subscribe, requests with one or
// many answers, streams, reading them, and appending to them in atomic batches that a deposed leader can't write.
// Only this package imports nats.go.
//
// It promises that every queue is bounded and says when it overflows, that handlers of one subscription run one
// after the other, and that every error names the subject or stream, the reason and what to do. The one thing to
// know before changing it: a message of a batch reaches plain subscribers before the stream has accepted it (see
// docs/adr/0008), so nothing that acts may subscribe to a stream's subjects.
package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/deltaplane/deltaplane/schemas"
)

// How a connection is kept.
const (
	dialTimeout  = 5 * time.Second
	backoffFirst = 50 * time.Millisecond
	backoffMax   = 2 * time.Second
	pingInterval = 5 * time.Second
	pingsMissed  = 2
	// A connection that is down takes no more to send: what is said late on the bus is wrong or repeated anyway.
	noReconnectBuffer = -1
)

// Sentinels that callers decide by.
var (
	// ErrNobody says that nobody answers requests on the subject.
	ErrNobody = errors.New("nobody answers there")
	// ErrDeposed says that another holder has taken the epoch: what was to be appended was not stored.
	ErrDeposed = errors.New("another has taken the epoch")
	// ErrUncertain says that no answer came: what was to be appended may or may not be stored. Take the epoch again
	// (which refuses whatever is still on its way) and read the stream.
	ErrUncertain = errors.New("it is unknown whether it was stored")
	// ErrNoStream says that the stream doesn't exist.
	ErrNoStream = errors.New("the stream doesn't exist")
	// ErrReplaced says that the stream was removed and made anew, or restored from a backup: what was read of it no longer
	// counts, begin again.
	ErrReplaced = errors.New("the stream was removed and made anew, or restored: begin again")
	// ErrTooLarge says that a message or batch is larger than the bus takes.
	ErrTooLarge = errors.New("too large for the bus")
	// ErrDenied says that the server doesn't allow this user to ask there.
	ErrDenied = errors.New("these credentials have no permission for that: docs/reference/permissions.md says whose have")
	// ErrClosed says that the connection was closed by its owner.
	ErrClosed = errors.New("the connection was closed")
)

// Options say where the bus is and who connects. URL and Name are needed.
type Options struct {
	// URL of one or more servers, separated by commas.
	URL string
	// Name of who connects, such as "programmer node-a": it shows in the server's list of connections.
	Name string
	// Log gets connects, disconnects, drops and refusals; nil drops them.
	Log *slog.Logger
	// OnDisconnect is called when the connection is lost, OnReconnect when it is back, one after the other.
	OnDisconnect func(error)
	OnReconnect  func()
	// OnDropped is called when a subscription's queue was full and messages were lost, with how many it has lost so far.
	OnDropped func(subject string, dropped int)
	// OnBroken is called when reading a stream breaks off, since messages are missing on the way or the server is away. It
	// goes on where it was.
	OnBroken func(stream string)
	// User names the inboxes where answers are heard, which permissions are by; empty is the name in the credentials.
	User string
	// CredentialsFile holds a user's JWT and key, as nsc writes it; empty connects without. It is read anew each time.
	CredentialsFile string
	// Identity takes the file's place for who has several, one after the other. It is asked each time.
	Identity func() (Identity, error)
	// RootCAFile verifies the server's certificate, for tls:// URLs; empty uses the system's.
	RootCAFile string
	// Dial makes connections; nil is net.Dialer's. The bus may be in another network namespace.
	Dial func(network, address string) (net.Conn, error)
}

// Conn is a connection to the bus. It reconnects for ever until Close, unless the server ends it for good: see Ended. Its
// methods may be called at the same time.
type Conn struct {
	nats    *nats.Conn
	js      jetstream.JetStream
	options Options
	log     *slog.Logger
	mute    mute
	ended   chan struct{} // closed when nats.go tries no more

	// ctx ends with Close. Handlers hold handling for reading while they run; Close takes it for writing to wait for them.
	ctx      context.Context
	end      context.CancelFunc
	handling sync.RWMutex
	requests requests
	refusals refusals
}

// Connect connects to the bus. It tries until it succeeds or ctx ends, and logs why it doesn't succeed. An URL that
// can't be right is an error at once.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	c := &Conn{options: o, log: o.Log, ended: make(chan struct{})}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if err := checkURL(o.URL); err != nil {
		return nil, err
	}
	c.ctx, c.end = context.WithCancel(context.WithoutCancel(ctx))
	for attempt := 0; ; attempt++ {
		err := c.dial()
		if err == nil {
			return c, nil
		}
		if attempt == 0 || attempt%10 == 9 {
			c.log.Warn("the bus is away; trying again", "url", redacted(o.URL), "attempts", attempt+1, "error", err, "advice", o.advice(err))
		}
		if unfixable(err) {
			return nil, fmt.Errorf("connect to the bus at %s: %w", redacted(o.URL), err)
		}
		if wait(ctx, backoff(attempt)) != nil {
			return nil, fmt.Errorf("connect to the bus at %s: %w; gave up after %d attempts: %s",
				redacted(o.URL), err, attempt+1, o.advice(err))
		}
	}
}

func (c *Conn) dial() error {
	options := []nats.Option{
		nats.Name(c.options.Name),
		nats.Timeout(dialTimeout),
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(backoff),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(noReconnectBuffer),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(pingsMissed),
		nats.SyncQueueLen(inboxMessages),
		nats.ErrorHandler(c.asyncError),
		nats.DisconnectErrHandler(c.disconnected),
		nats.ReconnectHandler(c.reconnected),
	}
	user, identity, err := c.identity()
	if err != nil {
		return err
	}
	options = append(append(options, identity...), nats.CustomInboxPrefix(schemas.InboxPrefix(user)))
	if c.options.RootCAFile != "" {
		options = append(options, nats.RootCAs(c.options.RootCAFile))
	}
	if c.options.Dial != nil {
		options = append(options, nats.SetCustomDialer(dialer(c.options.Dial)))
	}
	conn, err := nats.Connect(c.options.URL, options...)
	if err != nil {
		return err
	}
	if most := conn.MaxPayload(); most < schemas.MaxMessageBytes {
		conn.Close()
		return fmt.Errorf("the server takes messages of at most %d bytes, deltaplane sends up to %d: raise max_payload in its configuration: %w",
			most, schemas.MaxMessageBytes, errUnfit)
	}
	if c.js, err = jetstream.New(conn); err != nil {
		conn.Close()
		return err
	}
	c.nats = conn
	ended := sync.OnceFunc(func() { close(c.ended) })
	conn.SetClosedHandler(func(*nats.Conn) { ended() })
	if conn.IsClosed() {
		ended()
	}
	c.log.Info("connected to the bus", "url", conn.ConnectedUrlRedacted(), "server", conn.ConnectedServerName())
	return nil
}

// dialer is a function as nats.go wants it.
type dialer func(network, address string) (net.Conn, error)

func (d dialer) Dial(network, address string) (net.Conn, error) { return d(network, address) }

// Close ends all subscriptions, closes the connection and waits for handlers that run; so a handler must not call it.
func (c *Conn) Close() {
	c.end()
	if c.nats == nil {
		return
	}
	if c.nats.IsConnected() {
		_ = c.nats.FlushTimeout(time.Second) // what was published should leave; if the server is too slow it can't
	}
	c.nats.Close()
	c.handling.Lock()
	defer c.handling.Unlock()
}

// handle runs a handler unless the connection was closed.
func (c *Conn) handle(run func()) {
	c.handling.RLock()
	defer c.handling.RUnlock()
	if c.ctx.Err() == nil {
		run()
	}
}

// Elsewhere leaves the server for another one that is known, if there is one: a server that is cut off from the others
// goes on to serve who is connected to it, with nothing new. While the connection is down it does nothing, since another
// is being tried anyway.
func (c *Conn) Elsewhere() {
	if !c.nats.IsConnected() || len(c.nats.Servers()) < 2 {
		return
	}
	c.log.Warn("leaving this server of the bus for another", "server", c.nats.ConnectedServerName())
	if err := c.nats.ForceReconnect(); err != nil {
		c.log.Warn("the server of the bus can't be left", "error", c.explain(err))
	}
}

// Connected says whether the connection stands at the moment, for readiness checks.
func (c *Conn) Connected() error {
	if c.nats.IsConnected() {
		return nil
	}
	return fmt.Errorf("not connected to the bus at %s: %s", redacted(c.options.URL), c.nats.Status())
}

// Ended returns nil when ctx ends, and an error if the connection is closed before that and will not come back: nats.go
// gives up on some errors that a server sends as it closes a connection whose key is believed no more. Who lives by the
// bus then ends, to be started anew.
func (c *Conn) Ended(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.ended:
	}
	if ctx.Err() != nil || c.ctx.Err() != nil {
		return nil
	}
	err := cmp.Or(c.nats.LastError(), errors.New("it says no reason"))
	return fmt.Errorf("the server at %s ended the connection to the bus for good: %w: it must be made anew", redacted(c.options.URL), err)
}

func (c *Conn) disconnected(_ *nats.Conn, err error) {
	if c.ctx.Err() != nil {
		return
	}
	c.log.Warn("lost the bus; reconnecting", "url", redacted(c.options.URL), "error", err)
	if c.options.OnDisconnect != nil {
		c.options.OnDisconnect(err)
	}
}

func (c *Conn) reconnected(conn *nats.Conn) {
	c.mute.moved()
	c.log.Info("reconnected to the bus", "url", conn.ConnectedUrlRedacted(), "reconnects", conn.Stats().Reconnects)
	if c.options.OnReconnect != nil {
		c.options.OnReconnect()
	}
}

// asyncError is told of overflown subscriptions and of what the server refused, such as a missing permission, which
// the caller only sees as a timeout.
func (c *Conn) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if c.ctx.Err() != nil {
		return
	}
	if sub == nil || !errors.Is(err, nats.ErrSlowConsumer) {
		c.requests.denied(err)
		if c.refusals.isNews(err, time.Now()) {
			c.log.Error("the bus refused something", "error", err)
		}
		return
	}
	dropped, _ := sub.Dropped()
	c.log.Warn("messages dropped: this process is too slow for the subject", "subject", sub.Subject, "dropped", dropped)
	if c.options.OnDropped != nil {
		c.options.OnDropped(sub.Subject, dropped)
	}
}

var errUnfit = errors.New("the server's settings don't fit")

func unfixable(err error) bool { return errors.Is(err, errUnfit) }

func checkURL(servers string) error {
	u, err := url.Parse(servers)
	if servers == "" || (err == nil && u.Scheme != "" && u.Host == "") {
		return fmt.Errorf("bus URL %q: want something like nats://127.0.0.1:4222", servers)
	}
	return nil
}

// secret is the password, or the token, of an URL.
var secret = regexp.MustCompile(`://(?:([^:/@,\s]*):)?[^/@,\s]*@`)

// redacted hides passwords and tokens in URLs that go to logs and errors.
func redacted(servers string) string { return secret.ReplaceAllString(servers, "://$1:xxxxx@") }

// backoff grows from backoffFirst to backoffMax, with a jitter of a half, so that nodes don't come back as one.
func backoff(attempt int) time.Duration {
	d := min(backoffMax, backoffFirst<<min(attempt, 10))
	return d/2 + rand.N(d/2+1)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
