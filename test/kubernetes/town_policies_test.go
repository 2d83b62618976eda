// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"os"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab"
)

// Policy row 1: whatever order NetworkPolicies, pods and namespaces come in, the kernels hold what the API server's
// objects compile to, and decide as the policies say.
// Policy row 5: the same of ClusterNetworkPolicies, whose definition comes, goes and comes again.
// Policy row 6: pods of hostNetwork among them.
// Trap 43: pods change their address, node, labels and named ports, and take over others' addresses.
// Trap 44: verdicts are a function of the objects there are.
func TestPoliciesOfAChangingCluster(t *testing.T) {
	c := newChurn(t, NewTown(t))
	for _, name := range districts {
		c.Namespace(t, name)
	}
	for _, round := range []struct {
		name  string
		begin func()
	}{
		{"NetworkPolicies alone", c.inBatches},
		{"ClusterNetworkPolicies come", c.define},
		{"ClusterNetworkPolicies go and come, and the API server starts again", c.redefine},
		{"everything is killed once", c.crash},
	} {
		until := time.Now().Add(*churnTime)
		round.begin()
		c.churn(until)
		snapshot := c.settles(t)
		matrix := matrixOf(snapshot)
		matrix.agrees(t)
		matrix.runs(t, snapshot, c.config, c.Rand, 500)
		if t.Failed() {
			t.Fatalf("%s, after %d changes in all", round.name, c.count)
		}
	}
	t.Logf("%d changes: %v; the API server refused %v", c.count, c.made, c.refused)
}

// inBatches lets a service sleep, and another one.
func (c *Churn) inBatches() {
	c.inOneGo(40)
	c.inOneGo(40)
}

func (c *Churn) define() {
	define(c.t, c.Cluster, "policy-0")
	c.defined = true
	c.inBatches()
}

func (c *Churn) redefine() {
	undefine(c.t, c.Cluster)
	c.some(20)
	define(c.t, c.Cluster, "policy-1")
	c.Stop()
	c.Start(c.t)
	c.inBatches()
}

// crash ends services as crashes would; the lab starts them again. The lab's list of them is out of date from then on.
func (c *Churn) crash() {
	state, err := lab.ReadState(nameOfMarket)
	fatal(c.t, err)
	for _, service := range []string{"watcher", "compiler", "programmer-node-1"} {
		process, err := os.FindProcess(state.Services[service].PID)
		fatal(c.t, err)
		fatal(c.t, process.Kill())
		c.some(20)
	}
}
