// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/dynamic"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app/testing"
)

// The users that the API server knows by token. The watcher is the ServiceAccount of deploy/manifests, with no
// rights but those that RBAC gives it.
const (
	adminToken   = "admin"
	watcherToken = "watcher"
	users        = `admin,admin,1,system:masters
watcher,system:serviceaccount:deltaplane-system:watcher,2,"system:serviceaccounts,system:serviceaccounts:deltaplane-system,system:authenticated"
`
)

// Cluster is an API server that can be stopped and started again at the same address.
type Cluster struct {
	Client  clientset.Interface // as admin
	Dynamic dynamic.Interface   // as admin
	etcd    *embed.Etcd
	door    *door
	stop    func() // nil while the API server is down
	tokens  string
	flags   []string
}

// NewCluster starts etcd and an API server. flags are the API server's, besides those it always gets.
func NewCluster(t *testing.T, flags ...string) *Cluster {
	t.Helper()
	c := &Cluster{etcd: startEtcd(t), door: newDoor(t), tokens: filepath.Join(t.TempDir(), "tokens.csv"), flags: flags}
	if err := os.WriteFile(c.tokens, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Start(t)
	t.Cleanup(c.Stop)
	config := c.config(adminToken)
	c.Client = clientset.NewForConfigOrDie(config)
	c.Dynamic = dynamic.NewForConfigOrDie(config)
	return c
}

// Start starts the API server on what etcd holds.
func (c *Cluster) Start(t *testing.T) {
	t.Helper()
	storage := storagebackend.NewDefaultConfig("/registry", nil)
	storage.Transport.ServerList = []string{c.etcd.Clients[0].Addr().String()}
	flags := append([]string{
		"--disable-admission-plugins=ServiceAccount",
		"--authorization-mode=RBAC",
		"--token-auth-file=" + c.tokens,
	}, c.flags...)
	server := apiserver.StartTestServerOrDie(quiet{t}, apiserver.NewDefaultTestServerOptions(), flags, storage)
	c.stop = server.TearDownFn
	address, err := url.Parse(server.ClientConfig.Host)
	if err != nil {
		t.Fatal(err)
	}
	c.door.open(address.Host)
}

// Stop cuts every connection to the API server and ends it. What etcd holds stays.
func (c *Cluster) Stop() {
	c.door.close()
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
}

// Compact makes etcd forget everything but the present state, so that a watch from an earlier version ends with
// 410 Gone once the API server's own memory of it is gone too.
func (c *Cluster) Compact(t *testing.T) {
	t.Helper()
	if err := compact(t.Context(), c.etcd); err != nil {
		t.Fatal(err)
	}
}

// Kubeconfig writes a kubeconfig for one of the tokens and returns its path.
func (c *Cluster) Kubeconfig(t *testing.T, token string) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: "https://" + c.door.address(), InsecureSkipTLSVerify: true}
	config.AuthInfos["test"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	config.CurrentContext = "test"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func (c *Cluster) config(token string) *rest.Config {
	return &rest.Config{
		Host: "https://" + c.door.address(), BearerToken: token,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 1000, Burst: 1000,
	}
}

func startEtcd(t *testing.T) *embed.Etcd {
	t.Helper()
	config := embed.NewConfig()
	config.Dir = t.TempDir()
	config.LogLevel = "panic" // it calls closing its own sockets an error
	config.UnsafeNoFsync = true
	anyPort := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.ListenClientUrls, config.AdvertiseClientUrls = anyPort, anyPort
	config.ListenPeerUrls, config.AdvertisePeerUrls = anyPort, anyPort
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatalf("starting etcd: %v", err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		t.Fatalf("etcd ended while starting: %v", err)
	case <-t.Context().Done():
		t.Fatal("etcd was not ready in time")
	}
	return server
}

func compact(ctx context.Context, server *embed.Etcd) error {
	revision := server.Server.KV().Rev()
	request := &etcdserverpb.CompactionRequest{Revision: revision, Physical: true}
	if _, err := server.Server.Compact(ctx, request); err != nil {
		return fmt.Errorf("compacting etcd at revision %d: %w", revision, err)
	}
	return nil
}
