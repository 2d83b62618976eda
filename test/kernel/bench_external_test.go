// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/model"
)

// BenchmarkExternal measures a client outside whose backend is on another node than the one it reaches, in turns: straight
// to the pod, without any Service; by each way that nodes forward; and by kube-proxy's nftables rules. Of each it says how
// much a client downloads by one connection, what that costs all processors of the machine, and how many short connections
// it makes one after the other: dial, ask, 100 bytes of answer, end. One iteration is a round of each. Look at the ratios;
// the machine has to be quiet, since what others do counts as costs.
//
//	go test ./test/kernel -run '^$' -bench External -benchtime 20x
func BenchmarkExternal(b *testing.B) {
	ways := []*outsideWay{
		{name: "direct", bare: true, to: "10.2.0.2:8080"},
		{name: "kube-proxy", bare: true, rules: "testdata/kube-proxy.nft"},
		{name: "snat"},
		{name: "tunnel", flags: model.ForwardTunnel},
		{name: "dsr", flags: model.ForwardDSR},
	}
	for _, w := range ways {
		if w.to == "" {
			w.to = estateVIP(false)
		}
		w.start(b)
	}
	for round := 0; b.Loop(); round++ {
		for i := range ways {
			ways[(round+i)%len(ways)].measure(b)
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, w := range ways {
		for _, f := range w.figures() {
			b.ReportMetric(middle(*f.all), w.name+"-"+f.unit)
			for _, to := range ways[:2] {
				if w != to {
					b.ReportMetric(middle(*f.all)/middle(*to.of(f.unit)), w.name+"/"+to.name+"-"+f.unit)
				}
			}
		}
	}
}

// outsideWay is one way to a pod on another node, with what was measured.
type outsideWay struct {
	name  string
	to    string // what the client dials
	flags model.FrontendFlags
	bare  bool   // without our programs
	rules string // of nftables, on the first node

	*estate
	stream              net.Conn
	rates, costs, short []float64
}

type figure struct {
	unit string
	all  *[]float64
}

func (w *outsideWay) figures() []figure {
	return []figure{{"Gbit/s", &w.rates}, {"cpu-ms/Gbit", &w.costs}, {"connections/s", &w.short}}
}

func (w *outsideWay) of(unit string) *[]float64 {
	all := w.figures()
	return all[slices.IndexFunc(all, func(f figure) bool { return f.unit == unit })].all
}

// start makes the nodes, a server in the second one's pod, and the connection that is downloaded by.
func (w *outsideWay) start(b *testing.B) {
	b.Helper()
	w.estate = newEstate(b, 2, true, true)
	first, second := w.nodes[0], w.nodes[1]
	w.serve(b, w.flags, func(v6 bool) (string, int) { return second.podAddr(v6), second.number })
	w.lead(b, first)
	if w.bare {
		for _, s := range w.nodes {
			s.plane.Close()
		}
	}
	if w.rules != "" {
		first.Do(b, func() {
			if out, err := exec.Command("nft", "-f", w.rules).CombinedOutput(); err != nil {
				b.Skipf("nft -f %s: %v\n%s", w.rules, err, out)
			}
		})
	}
	second.pod.Do(b, func() { answerMany(b, second.podAddr(false)+":8080") })
	w.client.Do(b, func() {
		w.stream = dialRaw(b, "tcp4", netip.MustParseAddrPort(w.to))
		b.Cleanup(func() { w.stream.Close() })
		_, err := io.WriteString(w.stream, "s")
		check(b, err)
	})
}

// answerMany serves who sends an "s" with data without end, and others with one answer.
func answerMany(b *testing.B, addr string) {
	b.Helper()
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	listener, err := plain.Listen(b.Context(), "tcp4", addr)
	check(b, err)
	b.Cleanup(func() { listener.Close() })
	data := make([]byte, 256<<10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				var asked [1]byte
				if _, err := conn.Read(asked[:]); err != nil {
					return
				}
				for asked[0] == 's' {
					if _, err := conn.Write(data); err != nil {
						return
					}
				}
				conn.Write(data[:100])
			}()
		}
	}()
}

const (
	warmUp      = 50 * time.Millisecond // what buffers hold was sent before
	download    = 250 * time.Millisecond
	connections = 300
)

func (w *outsideWay) measure(b *testing.B) {
	b.Helper()
	w.read(b, warmUp)
	busy, begin := busyTicks(b), time.Now()
	gbit := float64(w.read(b, download)) * 8 / 1e9
	took := time.Since(begin).Seconds()
	w.rates = append(w.rates, gbit/took)
	w.costs = append(w.costs, float64(busyTicks(b)-busy)*10/gbit)
	w.client.Do(b, func() {
		begin := time.Now()
		for range connections {
			conn := dialRaw(b, "tcp4", netip.MustParseAddrPort(w.to))
			io.WriteString(conn, "r")
			if n, err := io.Copy(io.Discard, conn); n != 100 {
				b.Fatalf("%s: %d bytes came, %v", w.name, n, err)
			}
			conn.Close()
		}
		w.short = append(w.short, connections/time.Since(begin).Seconds())
	})
}

// read reads for so long, and returns how many bytes.
func (w *outsideWay) read(b *testing.B, d time.Duration) (total int) {
	b.Helper()
	buffer := make([]byte, 256<<10)
	check(b, w.stream.SetReadDeadline(time.Now().Add(d+patience)))
	for end := time.Now().Add(d); time.Now().Before(end); {
		n, err := w.stream.Read(buffer)
		check(b, err)
		total += n
	}
	return total
}

// busyTicks is for how long processors did anything, in hundredths of a second.
func busyTicks(b *testing.B) (busy uint64) {
	b.Helper()
	text, err := os.ReadFile("/proc/stat")
	check(b, err)
	line, _, _ := strings.Cut(string(text), "\n")
	var user, nice, system, idle, wait, irq, softirq uint64
	if _, err := fmt.Sscanf(line, "cpu %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &wait, &irq, &softirq); err != nil {
		b.Fatalf("read /proc/stat: %v", err)
	}
	return user + nice + system + irq + softirq
}

// middle is the median.
func middle(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}
