// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConnectSaysWhatIsWrong(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	broken := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(broken, []byte("clusters: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(good, []byte(kubeconfig("https://192.0.2.1:6443")), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]Options{
		"outside a pod give --kubeconfig":                               {},
		"read the kubeconfig /nowhere: stat":                            {Kubeconfig: "/nowhere"},
		"read the kubeconfig " + broken + ": error loading config file": {Kubeconfig: broken},
		`--api-server "x": want a URL such as https://192.0.2.1:6443`:   {Kubeconfig: good, APIServer: "x"},
	} {
		o.Log = slog.New(slog.DiscardHandler)
		if _, err := Connect(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	c, err := Connect(Options{Kubeconfig: good, APIServer: "https://192.0.2.2:6443", Log: slog.New(slog.DiscardHandler)})
	if err != nil || c.Server != "https://192.0.2.2:6443" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func kubeconfig(server string) string {
	return `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "` + server + `"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`
}

// Trap 45: once they are known, the watcher dials the API servers themselves and no Service.
func TestTheServersThemselvesAreDialledOnceTheyAreKnown(t *testing.T) {
	service, direct := listen(t), listen(t)
	c := &Client{Log: slog.New(slog.DiscardHandler)}
	reach := func(want net.Listener) {
		t.Helper()
		conn, err := c.dial(t.Context(), "tcp", service.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.RemoteAddr().String(); got != want.Addr().String() {
			t.Errorf("reached %s, want %s", got, want.Addr())
		}
	}
	reach(service)
	c.Servers([]netip.AddrPort{netip.MustParseAddrPort(direct.Addr().String())})
	reach(direct)
	if err := direct.Close(); err != nil {
		t.Fatal(err)
	}
	reach(service)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
