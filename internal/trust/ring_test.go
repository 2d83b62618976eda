// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever is changed, and whenever: what the operator says of itself stays as it is, to the letter. Servers that run
// read their accounts again only then.
func TestTheOperatorSaysTheSameForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := issued(t)
		before := operatorLine(t, f)
		<-time.After(time.Hour) // of the bubble, so that dates differ
		rotate(t, f, RoleNode, StepIntroduced)
		if _, err := f.Revoke("node.b"); err != nil {
			t.Fatal(err)
		}
		f, err := Init(f.path, []string{"127.0.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		if after := operatorLine(t, f); after != before {
			t.Errorf("the operator said\n%s\nand an hour later\n%s", before, after)
		}
	})
}

func operatorLine(t *testing.T, f *Folder) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.BusPath(), fileAccounts))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "operator: ") {
			return line
		}
	}
	t.Fatal("accounts.conf names no operator")
	return ""
}
