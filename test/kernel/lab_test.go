// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/testkit"
)

// labName is that of no other run of these tests on this machine, now or before it was killed.
var labName = fmt.Sprintf("test-pipeline-%d", os.Getpid())

// cli is the command line of a lab of this test's own, with the services built beside it.
type cli struct{ program string }

// binaries is the folder of what buildAll makes, once for all tests; TestMain removes it.
var binaries string

var build = sync.OnceValue(func() (err error) {
	binaries, err = testkit.Build()
	return err
})

// labsAtOnce is how many labs parallel tests may have: most of the time these wait.
const labsAtOnce = "4"

func TestMain(m *testing.M) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		if err := parallel.Value.Set(labsAtOnce); err != nil {
			panic(err)
		}
	}
	if os.Geteuid() == 0 {
		takeDownEnded()
	}
	code := m.Run()
	if err := leaveBorder(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if binaries != "" {
		if err := os.RemoveAll(binaries); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// takeDownEnded takes down what runs that were killed have left.
func takeDownEnded() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, prefix := range []string{"test-pipeline-", "test-demo-"} {
		if err := lab.DownEnded(ctx, prefix); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

func buildAll(t *testing.T) cli {
	t.Helper()
	check(t, build())
	return cli{filepath.Join(binaries, "deltaplane")}
}

func (c cli) run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("deltaplane %s: %v\n%s%s%s", strings.Join(args, " "), err, out, stderr.Bytes(), logs())
	}
	return string(out)
}

func (c cli) lab(t *testing.T, command string, args ...string) string {
	t.Helper()
	return c.run(t, append([]string{"lab", command, "--name", labName}, args...)...)
}

func (c cli) probe(t *testing.T, from, to, protocol string, family int) agent.Result {
	t.Helper()
	out := c.lab(t, "probe", "--from", from, "--to", to, "--proto", protocol, "--family", fmt.Sprint(family), "-o", "json")
	var report lab.ProbeReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Results) != 1 {
		t.Fatalf("probe says %s: %v", out, err)
	}
	return report.Results[0]
}

// logs are what the services of the lab have said, for failures.
func logs() string {
	state, err := lab.ReadState(labName)
	if err != nil {
		return err.Error()
	}
	return logsIn(state.Logs)
}

// logsIn are the ends of the logs in a folder.
func logsIn(folder string) string {
	files, _ := filepath.Glob(filepath.Join(folder, "*.log"))
	var text strings.Builder
	for _, file := range files {
		data, _ := os.ReadFile(file)
		fmt.Fprintf(&text, "--- %s\n%s\n", filepath.Base(file), data[max(0, len(data)-4000):])
	}
	return text.String()
}

const shopWith = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, ports: [{name: http, containerPort: 8080}, {name: quote, containerPort: 5300, protocol: UDP}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: quote, port: 53, protocol: UDP, targetPort: quote}]
`

// From YAML to packets, by the commands that people use: every place reaches the Service in both families and
// protocols, changes are live when the command returns, and nothing is left at the end.
func TestPipelineFromYAMLToPackets(t *testing.T) {
	testkit.NeedKernel(t)
	c := buildAll(t)
	file := filepath.Join(t.TempDir(), "shop.yaml")
	write := func(replicas int) {
		if err := os.WriteFile(file, fmt.Appendf(nil, shopWith, replicas), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(2)
	t.Cleanup(func() {
		if _, err := lab.Down(context.WithoutCancel(t.Context()), labName); err != nil {
			t.Error(err)
		}
	})
	c.lab(t, "up", "-f", file, "--detach")
	everyoneReaches(t, c)
	nobodyNoticesDeath(t, c)

	write(4)
	c.lab(t, "apply", "-f", file)
	reached := map[string]bool{}
	testkit.Eventually(t, patience, func() bool {
		reached[c.probe(t, "node/node-1", "shop/web:http", "tcp", 4).Reached] = true
		return len(reached) == 4
	})
	write(0)
	c.lab(t, "apply", "-f", file)
	if got := c.probe(t, "node/node-2", "shop/web:http", "tcp", 6); got.Outcome != agent.Refused {
		t.Errorf("without backends: %+v", got)
	}
	c.lab(t, "down")
	if _, err := lab.ReadState(labName); err == nil {
		t.Error("the lab is still there")
	}
}

func everyoneReaches(t *testing.T, c cli) {
	t.Helper()
	for _, from := range []string{"shop/web-0", "node/node-1", "node/node-2", "node/node-3"} {
		for _, family := range []int{4, 6} {
			for protocol, port := range map[string]string{"tcp": "http", "udp": "quote"} {
				if got := c.probe(t, from, "shop/web:"+port, protocol, family); got.Outcome != agent.OK || !strings.HasPrefix(got.Reached, "shop/web-") {
					t.Errorf("%s over %s and IPv%d: %+v", from, protocol, family, got)
				}
			}
		}
	}
}

// nobodyNoticesDeath kills every service while clients connect: the kernel goes on, and the services come back.
func nobodyNoticesDeath(t *testing.T, c cli) {
	t.Helper()
	state, err := lab.ReadState(labName)
	if err != nil {
		t.Fatal(err)
	}
	load := exec.CommandContext(t.Context(), c.program, "lab", "probe", "--name", labName, "--from", "shop/web-0", "--to", "shop/web:http", "--count", "3000", "-o", "json")
	var out bytes.Buffer
	load.Stdout = &out
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	if len(state.Services) != 5 {
		t.Errorf("services %v, want watcher, compiler and three programmers", state.Services)
	}
	for _, service := range state.Services {
		if err := service.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if err := load.Wait(); err != nil {
		t.Fatal(err)
	}
	var report lab.ProbeReport
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	for i, r := range report.Results {
		if r.Outcome != agent.OK {
			t.Fatalf("connection %d of %d: %+v", i, len(report.Results), r)
		}
	}
}

// The demo tells its whole story, with the kernel and without, and leaves nothing behind.
func TestDemoFailsNoConnection(t *testing.T) {
	testkit.NeedKernel(t)
	c := buildAll(t)
	for name, args := range map[string][]string{"kernel": nil, "memory": {"--no-kernel"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := fmt.Sprintf("test-demo-%s-%d", name, os.Getpid())
			out := c.run(t, append([]string{"demo", "--name", lab}, args...)...)
			for _, want := range []string{" connections, 0 failed", "nodes converged with equal digests    yes", "refused at once", "no_backend", "closed by a policy"} {
				if !strings.Contains(out, want) {
					t.Errorf("the story has no %q:\n%s", want, out)
				}
			}
			if _, err := os.Stat("/run/deltaplane/" + lab); !os.IsNotExist(err) {
				t.Errorf("the demo left something behind: %v", err)
			}
		})
	}
}
