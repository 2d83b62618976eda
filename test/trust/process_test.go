// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// process is a service that runs.
type process struct {
	log    journal
	listen string // where it tells what it counts; empty is nowhere
	stop   func()
}

// journal is what a process has written so far.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(text []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(text)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// says returns how often something was written.
func (j *journal) says(what string) int { return strings.Count(j.String(), what) }

// start runs a program until stop or the test's end.
func (h *hostile) start(url, listen, program string, args ...string) *process {
	h.t.Helper()
	p := &process{listen: listen}
	cmd := exec.Command(filepath.Join(h.bin, program), append(args, "--bus", url, "--listen", listen)...)
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	p.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails when it has ended, which Wait tells
		if err := cmd.Wait(); err != nil {
			h.t.Errorf("%s ended with %v", program, err)
		}
		if text := p.log.String(); h.t.Failed() {
			h.t.Logf("%s:\n…%s", program, text[max(0, len(text)-3000):])
		}
	})
	h.t.Cleanup(p.stop)
	return p
}

var addresses atomic.Int32

// ownAddress is one of the loopback device that nobody else takes: the number of this process is in it.
func ownAddress() string {
	pid := os.Getpid() // below 2^22
	return fmt.Sprintf("%s:%d", net.IPv4(127, 64|byte(pid>>16), byte(pid>>8), byte(pid)), 9100+addresses.Add(1))
}

// counts are what a service counts, by the metric's name without deltaplane_.
type counts map[string]float64

// counts returns what the service counts; nil while it doesn't say.
func (p *process) counts() counts {
	answer, err := http.Get("http://" + p.listen + "/metrics")
	if err != nil {
		return nil
	}
	defer answer.Body.Close()
	all := counts{}
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			all[strings.TrimPrefix(name, "deltaplane_")] = n
		}
	}
	return all
}
