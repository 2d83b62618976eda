// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

func TestEnginesAgree(t *testing.T) {
	testkit.NeedKernel(t)
	w := shop()
	kernel, err := NewKernel(w)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	for _, q := range []Question{
		{From: "shop/front", To: "shop/cart:80"},
		{From: "shop/front", To: "shop/cart:80", Via: "packet"},
		{From: "172.20.0.3", To: "10.96.0.10:80"},
		{From: "fd00:1::2", To: "shop/cart:80"},
		{From: "shop/front", To: "shop/empty:80"},
		{From: "shop/front", To: "shop/empty:80", Via: "packet"},
		{From: "shop/front", To: "shop/dns:53", Proto: "udp"},
		{From: "shop/front", To: "shop/dns:53"},
		{From: "shop/front", To: "shop/cart-1:http"},
		{From: "shop/front", To: "shop/cart:80", Proto: "sctp"},
		{From: "shop/front", To: "shop/moved:80", Proto: "sctp"},
		{From: "shop/front", To: "shop/same:80", Proto: "sctp"},
		{From: "192.0.2.1", To: "shop/cart:80", Node: "b"},
	} {
		model, err := w.Ask(Model{}, q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		got, err := w.Ask(kernel, q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		if diff := cmp.Diff(model, got, cmpopts.IgnoreFields(Answer{}, "Steps", "Evidence")); diff != "" {
			t.Errorf("%+v (-model +kernel):\n%s", q, diff)
		}
	}
}

// The same programs answer about a cluster that has changed.
func TestEngineIsAskedAboutAnotherWorld(t *testing.T) {
	testkit.NeedKernel(t)
	before, after := shop(), kinds(t, Config{})
	kernel, err := NewKernel(after)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	node := before.Nodes()[0]
	q := Question{From: "192.0.2.1", To: "10.96.0.10:80", Node: node}
	for _, w := range []*World{before, after, before} {
		model, err := w.Ask(Model{}, q)
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.Ask(kernel, q)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(model, got, cmpopts.IgnoreFields(Answer{}, "Steps", "Evidence")); diff != "" {
			t.Errorf("(-model +kernel):\n%s", diff)
		}
	}
}
