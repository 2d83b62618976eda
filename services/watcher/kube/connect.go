// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	// dialTime bounds how long one API server is tried before the next.
	dialTime = 3 * time.Second
	// What one watcher may ask of an API server. A start takes some 25 requests, running a few a minute.
	requestsPerSecond = 20
	requestsAtOnce    = 50
	// The same for questions about tokens, of which there is one a node when a cluster begins, and few later.
	tokensPerSecond = 200
	tokensAtOnce    = 200
)

// Options say which API server to watch.
type Options struct {
	// Kubeconfig is a file; empty uses the pod's ServiceAccount.
	Kubeconfig string
	// APIServer is used in place of the address that the kubeconfig or the pod's environment has, as a URL.
	APIServer string
	// UserAgent names this client to the API server.
	UserAgent string
	Log       *slog.Logger
}

// Connect returns a client and its server's URL. It sends nothing yet.
//
// A pod finds the API server by the ClusterIP of the Service "kubernetes", which works only while something programs
// Services, and that something waits for us. So connections go straight to the servers behind it once these are known
// (Client.Servers), and where nothing else programs Services, APIServer names one to begin with.
func Connect(o Options) (*Client, error) {
	klog.SetSlogLogger(o.Log)
	config, err := load(o)
	if err != nil {
		return nil, err
	}
	if o.APIServer != "" {
		if u, err := url.Parse(o.APIServer); err != nil || u.Host == "" {
			return nil, fmt.Errorf("--api-server %q: want a URL such as https://192.0.2.1:6443", o.APIServer)
		}
		config.Host = o.APIServer
	}
	config.UserAgent = "deltaplane " + o.UserAgent
	config.QPS, config.Burst = requestsPerSecond, requestsAtOnce
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	c := &Client{Server: config.Host, Log: o.Log}
	if o.Kubeconfig == "" && o.APIServer == "" {
		config.Dial = c.dial
	}
	if c.Interface, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("connect to the API server at %s: %w", config.Host, err)
	}
	tokens := rest.CopyConfig(config)
	tokens.QPS, tokens.Burst = tokensPerSecond, tokensAtOnce
	if c.Tokens, err = kubernetes.NewForConfig(tokens); err != nil {
		return nil, fmt.Errorf("connect to the API server at %s: %w", config.Host, err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("connect to the API server at %s: %w", config.Host, err)
	}
	return c, nil
}

func load(o Options) (*rest.Config, error) {
	if o.Kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("find the API server: %w; outside a pod give --kubeconfig", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig %s: %w", o.Kubeconfig, err)
	}
	return config, nil
}

// Client is a client of an API server.
type Client struct {
	kubernetes.Interface
	Dynamic dynamic.Interface
	// Tokens is for questions about tokens: however many there are, watching doesn't wait for them.
	Tokens kubernetes.Interface
	// Server is the URL that was configured.
	Server string
	Log    *slog.Logger

	direct atomic.Pointer[[]netip.AddrPort]
}

// Servers tells the client which API servers there are, so that it needs no Service to reach them.
func (c *Client) Servers(servers []netip.AddrPort) { c.direct.Store(&servers) }

// dial connects to one of the API servers themselves, or else to addr. Certificates are checked for addr either way.
func (c *Client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second}
	if servers := c.direct.Load(); servers != nil {
		for _, server := range *servers {
			if conn, err := dialer.DialContext(ctx, network, server.String()); err == nil {
				return conn, nil
			}
		}
	}
	return dialer.DialContext(ctx, network, addr)
}
