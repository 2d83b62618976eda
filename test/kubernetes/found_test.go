// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/schemas"
)

// What kubeadm leaves in a cluster.
const (
	kubeadmConfiguration = `
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
controlPlaneEndpoint: api.example.com:6443
networking: {podSubnet: "10.244.0.0/16,fd00:10:244::/56", serviceSubnet: "10.96.0.0/16,fd00:10:96::/112"}
`
	kubeProxyConfiguration = `
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
`
	kubeconfigOfCluster = `
apiVersion: v1
kind: Config
clusters: [{name: "", cluster: {server: "https://192.0.2.20:6443"}}]
`
	// advertised is what the API server's own EndpointSlice says of it.
	advertised = "192.0.2.1"
)

func (c *Cluster) configMap(t *testing.T, namespace, name, key, text string) {
	t.Helper()
	_, err := c.Client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string]string{key: text},
	}, metav1.CreateOptions{})
	fatal(t, err)
}

// Row 26: with the rights of the manifests alone the watcher finds the pods' and Services' prefixes and the API server,
// and says where it has each from.
// Trap 45: the API servers that stand behind the Service "kubernetes" are known, so nobody needs that Service to get to them.
func TestWatcherFindsWhatTheClusterSaysOfItself(t *testing.T) {
	cluster := NewCluster(t, "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
		"--advertise-address="+advertised, "--endpoint-reconciler-type=master-count")
	cluster.Install(t)
	cluster.configMap(t, "kube-system", "kubeadm-config", "ClusterConfiguration", kubeadmConfiguration)
	cluster.configMap(t, "kube-system", "kube-proxy", "config.conf", kubeProxyConfiguration)
	cluster.configMap(t, "kube-public", "cluster-info", "kubeconfig", kubeconfigOfCluster)
	_, err := cluster.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-x"}, Spec: corev1.NodeSpec{PodCIDR: "10.250.7.0/24", PodCIDRs: []string{"10.250.7.0/24"}},
	}, metav1.CreateOptions{})
	fatal(t, err)

	bus := NewBus(t)
	watcher := watch(t, cluster, bus, "a")
	eventually(t, bus, "the cluster, with the API server", func(facts map[string]*schemas.Fact) bool {
		return strings.HasPrefix(origins(facts)["EndpointSlice default/kubernetes"], advertised+":")
	})
	slice := origins(bus.Facts())["EndpointSlice default/kubernetes"]
	want := map[string]string{
		"ConfigMap kube-system/kubeadm-config, networking.podSubnet": "10.244.0.0/16 fd00:10:244::/56",
		"Nodes, spec.podCIDRs":                                       "10.250.7.0/24",
		"ServiceCIDR kubernetes, spec.cidrs":                         "10.96.0.0/16 fd00:10:96::/112",
		"EndpointSlice default/kubernetes":                           slice,
		"ConfigMap kube-system/kubeadm-config, controlPlaneEndpoint": "api.example.com:6443",
		"ConfigMap kube-public/cluster-info, server":                 "192.0.2.20:6443",
	}
	if diff := cmp.Diff(want, origins(bus.Facts())); diff != "" {
		t.Errorf("found (- want, + got):\n%s", diff)
	}
	for origin, values := range want {
		for value := range strings.FieldsSeq(values) {
			if log := watcher.Log(); !strings.Contains(log, value) || !strings.Contains(log, origin) {
				t.Errorf("the watcher's log doesn't say %q from %q", value, origin)
			}
		}
	}

	Run(t, "compiler", "--bus="+bus.URL, "--listen=")
	eventually(t, bus, "a status that says it too", func(map[string]*schemas.Fact) bool { return cmp.Equal(want, statusOrigins(t, bus)) })
}

// origins returns what was found out, by where it is from.
func origins(facts map[string]*schemas.Fact) map[string]string {
	cluster := facts["Cluster /cluster"].GetCluster()
	found := map[string]string{}
	for _, list := range [][]*schemas.Found{cluster.GetPodCidrs(), cluster.GetServiceCidrs(), cluster.GetApiServers()} {
		for _, f := range list {
			found[f.GetOrigin()] = strings.TrimSpace(found[f.GetOrigin()] + " " + f.GetValue())
		}
	}
	return found
}

// statusOrigins returns the same as people read it; nothing while nobody answers.
func statusOrigins(t *testing.T, bus *Bus) map[string]string {
	t.Helper()
	// A cluster whose nodes have no programmer isn't healthy, which the exit status says.
	out, _ := exec.CommandContext(t.Context(), binary(t, "deltaplane"), "status", "--bus="+bus.URL, "-o", "json").Output()
	var status struct {
		Cluster map[string][]struct{ Value, Origin string } `json:"cluster"`
	}
	if json.Unmarshal(out, &status) != nil {
		return nil
	}
	found := map[string]string{}
	for _, list := range []string{"podCIDRs", "serviceCIDRs", "apiServers"} {
		for _, f := range status.Cluster[list] {
			found[f.Origin] = strings.TrimSpace(found[f.Origin] + " " + f.Value)
		}
	}
	return found
}
