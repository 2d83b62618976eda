// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"flag"
	"io"
	"os"
	"testing"

	"k8s.io/klog/v2"
)

var loud = flag.Bool("apiserver-log", false, "show what the API server logs: hundreds of lines a start")

func TestMain(m *testing.M) {
	flag.Parse()
	if !*loud {
		hush()
	}
	os.Exit(m.Run())
}

// hush sends what klog has to say nowhere, errors too: starting and stopping an API server makes several.
func hush() {
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	_ = flags.Set("logtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
}

// quiet is a test that the API server may fail but not talk to.
type quiet struct{ *testing.T }

func (q quiet) Log(args ...any) {
	if *loud {
		q.T.Log(args...)
	}
}

func (q quiet) Logf(format string, args ...any) {
	if *loud {
		q.T.Logf(format, args...)
	}
}
