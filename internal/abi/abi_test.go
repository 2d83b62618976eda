// SPDX-License-Identifier: Apache-2.0

package abi_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deltaplane/deltaplane/internal/abi"
	"github.com/deltaplane/deltaplane/internal/model"
)

func TestSizesAreThoseOfTheHeader(t *testing.T) {
	sizes := map[abi.Map][2]any{
		abi.Frontends: {abi.FrontendKey{}, abi.Frontend{}},
		abi.Sets:      {uint32(0), abi.BackendSet{}},
		abi.Slots:     {abi.SlotKey{}, uint32(0)},
		abi.Backends:  {uint32(0), abi.Backend{}},
		abi.Nodes:     {uint32(0), abi.Node{}},
		abi.Endpoints: {[16]byte{}, abi.Endpoint{}},
	}
	for m, types := range sizes {
		got := abi.Layout{Name: m.String(), KeySize: len(abi.Encode(types[0])), ValueSize: len(abi.Encode(types[1]))}
		if diff := cmp.Diff(abi.Layouts[m], got); diff != "" {
			t.Errorf("%v (-declared +encoded):\n%s", m, diff)
		}
	}
}

func TestFrontendKeyHasPortInNetworkOrderAndMappedAddress(t *testing.T) {
	key := abi.KeyOfFrontend(model.FrontendKey{Addr: netip.MustParseAddr("10.96.0.1"), Port: 0x1234, Protocol: model.UDP})
	want := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 0, 1, 0x12, 0x34, 17, 0}
	if diff := cmp.Diff(want, abi.Encode(key)); diff != "" {
		t.Fatalf("bytes (-want +got):\n%s", diff)
	}
	if got := abi.Addr(key.Addr); got != netip.MustParseAddr("10.96.0.1") {
		t.Errorf("address comes back as %v", got)
	}
	if got := abi.HostPort(key.Port); got != 0x1234 {
		t.Errorf("port comes back as %#x", got)
	}
}

func TestDecodeRefusesOtherSizes(t *testing.T) {
	var set abi.BackendSet
	if err := abi.Decode(make([]byte, 12), &set); err == nil {
		t.Fatal("12 bytes were read as a backend set of 140")
	}
}

func TestTextEndsAtTheFirstNUL(t *testing.T) {
	if got := abi.Text([]byte("shop/cart\x00rest")); got != "shop/cart" {
		t.Fatalf("got %q", got)
	}
}

// A name in a map that was edited by hand is told in reports and events, which take UTF-8 alone.
//
// Fault 10: a bit of a name is another.
func TestATextThatIsNotUTF8IsGivenBackAsAnother(t *testing.T) {
	for text, want := range map[string]string{
		"shop/web\x00left":   "shop/web",
		"sh\xefp/web\x00":    "sh\uFFFDp/web",
		"without an end":     "without an end",
		"sch\u00f6n/web\x00": "sch\u00f6n/web",
	} {
		if got := abi.Text([]byte(text)); got != want {
			t.Errorf("%q is read as %q, want %q", text, got, want)
		}
	}
}
