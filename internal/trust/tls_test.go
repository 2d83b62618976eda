// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"strconv"
	"strings"
	"testing"
)

func TestHostsThatNobodyCouldCheckAreRefusedByName(t *testing.T) {
	for _, host := range []string{"a b", "", "nats:4222", "192.0.2.11:4222", "10.0.0.300", "[::1]", "fe80::1%eth0", "-a", "a..b", "a.*", "nats://a", strings.Repeat("a.", 130) + "a"} {
		_, err := Init(t.TempDir(), []string{"127.0.0.1", host})
		if err == nil || !strings.Contains(err.Error(), "host "+strconv.Quote(host)+" is neither a DNS name nor an IP address") {
			t.Errorf("%q: %v", host, err)
		}
	}
	if err := checkHosts(nil); err == nil || !strings.Contains(err.Error(), "want a host at least") {
		t.Errorf("without hosts: %v", err)
	}
	if err := checkHosts([]string{"127.0.0.1", "::1", "localhost", "nats-0.example.org", "*.nats.example.org", "_x.a"}); err != nil {
		t.Error(err)
	}
}
