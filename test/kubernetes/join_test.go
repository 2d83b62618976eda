// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deltaplane/deltaplane/internal/bus"
	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/testkit"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

const system = "deltaplane-system"

// house is a bus with the deployed configuration, and a watcher that lets nodes in.
type house struct {
	cluster *Cluster
	folder  *trust.Folder
	url     string
}

func newHouse(t *testing.T, cluster *Cluster) *house {
	t.Helper()
	folder, err := trust.Init(filepath.Join(t.TempDir(), "trust"), []string{"127.0.0.1"})
	fatal(t, err)
	server, err := embedded.Start(embedded.Options{Trust: folder.BusPath()})
	fatal(t, err)
	t.Cleanup(server.Shutdown)
	own := folder.Path(trust.RoleWatcher)
	watcher := Run(t, "watcher", "--source=kubernetes", "--kubeconfig="+cluster.Kubeconfig(t, watcherToken), "--name=watcher-0",
		"--bus="+server.URL(), "--bus-credentials="+own+"/bus.creds", "--bus-ca="+own+"/ca.crt", "--join-keys="+own, "--listen=")
	testkit.Eventually(t, soon, func() bool { return strings.Contains(watcher.Log(), "nodes may join") })
	return &house{cluster, folder, server.URL()}
}

// programmerPod makes a node's programmer pod, as the DaemonSet's controller and the scheduler would.
func (h *house) programmerPod(t *testing.T, node, account string) *corev1.Pod {
	t.Helper()
	pod, err := h.cluster.Client.CoreV1().Pods(system).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "programmer-"},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: account, HostNetwork: true,
			Containers: []corev1.Container{{Name: "programmer", Image: "deltaplane/programmer"}},
		},
	}, metav1.CreateOptions{})
	fatal(t, err)
	return pod
}

// token is what a kubelet asks for when it projects one; without a pod it is bound to nothing.
func (h *house) token(t *testing.T, pod *corev1.Pod, account, audience string) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}}}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	made, err := h.cluster.Client.CoreV1().ServiceAccounts(system).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	fatal(t, err)
	return made.Status.Token
}

// knock shows a token and says why it isn't let in.
func (h *house) knock(t *testing.T, node, token string) error {
	t.Helper()
	join, err := trust.ReadCredential(filepath.Join(h.folder.Path("programmer"), trust.FileJoin))
	fatal(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	conn, err := bus.Connect(ctx, bus.Options{
		URL: h.url, Name: "programmer " + node, User: schemas.User(node), RootCAFile: filepath.Join(h.folder.Path("programmer"), trust.FileCA),
		Identity: func() (bus.Identity, error) { return bus.Identity{JWT: join.JWT, Sign: join.Sign, Token: token}, nil },
	})
	if err == nil {
		conn.Close()
	}
	return err
}

// A programmer joins by the token of its pod; then it comes back without the API server.
//
// Promise P9: a node's credential follows from the token that Kubernetes gave to that node's programmer.
func TestProgrammerJoinsByItsServiceAccount(t *testing.T) {
	cluster := NewCluster(t)
	cluster.Install(t)
	h := newHouse(t, cluster)
	for _, name := range []string{"node-a", "node-b"} {
		_, err := cluster.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		fatal(t, err)
	}
	pod := h.programmerPod(t, "node-a", "programmer")
	good := h.token(t, pod, "programmer", "deltaplane-bus")

	for name, token := range map[string]string{
		"for the API server":     h.token(t, pod, "programmer", "https://kubernetes.default.svc"),
		"of another account":     h.token(t, h.programmerPod(t, "node-a", "watcher"), "watcher", "deltaplane-bus"),
		"of no pod":              h.token(t, nil, "programmer", "deltaplane-bus"),
		"that was changed":       good[:len(good)-8] + "AAAAAAAA",
		"that is none":           "rubbish",
		"of nobody, being empty": "",
	} {
		if err := h.knock(t, "node-a", token); err == nil || !strings.Contains(err.Error(), "Authorization") {
			t.Errorf("a token %s: %v", name, err)
		}
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	fatal(t, os.WriteFile(file, []byte(good), 0o600))
	own := h.folder.Path("programmer")
	program := func(node string) *Process {
		return Run(t, "programmer", "--node="+node, "--maps=memory", "--listen=", "--bus="+h.url, "--bus-ca="+own+"/ca.crt",
			"--join-credentials="+own+"/join.creds", "--join-token="+file, "--credential-dir="+filepath.Join(dir, node))
	}
	first := program("node-a")
	testkit.Eventually(t, soon, func() bool { return strings.Contains(first.Log(), "this node has a credential") })
	first.Stop(t)

	// With node-a's token nobody becomes node-b.
	thief := program("node-b")
	testkit.Eventually(t, soon, func() bool {
		return strings.Contains(thief.Log(), "Permissions Violation for Publish to \\\"deltaplane.v1.credential.node-b\\\"")
	})
	thief.Stop(t)

	// Its Node is taken away: the token is of no node any more, while what it was given is good until it ends.
	fatal(t, cluster.Client.CoreV1().Nodes().Delete(t.Context(), "node-a", metav1.DeleteOptions{}))
	testkit.Eventually(t, soon, func() bool {
		err := h.knock(t, "node-a", good)
		return err != nil && strings.Contains(err.Error(), "Authorization")
	})

	cluster.Stop()
	again := program("node-a")
	testkit.Eventually(t, soon, func() bool { return strings.Contains(again.Log(), "connected to the bus") })
	again.Stop(t)
	cluster.Start(t)
}
