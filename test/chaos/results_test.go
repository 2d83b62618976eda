// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// results are what came of all experiments, in their order.
var results = &table{}

type table struct{ rows []*row }

// row is what came of one experiment.
type row struct {
	fault     string
	failed    bool
	changes   int           // made while the fault lasted
	converged time.Duration // the longest, from the end of a fault
	takeover  time.Duration // the longest, from the death of a leader; 0 if none died
	named     time.Duration // the longest, from the beginning of a fault; 0 if nobody needs to be told
	namedBy   string
	writes    uint64 // to maps while nothing had changed
	count     count
}

func (t *table) add(fault string) *row {
	r := &row{fault: fault}
	t.rows = append(t.rows, r)
	return r
}

func (r *row) String() string {
	return fmt.Sprintf("%s: %d changes, converged after %s, takeover %s, named after %s, %d map writes without a change, %v",
		r.fault, r.changes, span(r.converged), span(r.takeover), span(r.named), r.writes, r.count)
}

// print writes a table.
func (t *table) print(out io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	fmt.Fprintf(out, "\nseed %d: the same again with make chaos SEED=%d\n\n", *seed, *seed)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tRESULT\tCHANGES\tCONVERGED\tTAKEOVER\tNAMED\tBY\tATTEMPTS\tFAILED\tDENIED\tPASSED\tIDLE MAP WRITES")
	for _, r := range t.rows {
		result := "ok"
		if r.failed {
			result = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\n", r.fault, result, r.changes, span(r.converged), span(r.takeover),
			span(r.named), cmp.Or(r.namedBy, "-"), r.count.tried, r.count.failed, r.count.denied, r.count.passed, r.writes)
	}
	return w.Flush()
}

// span is a dash for nothing.
func span(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.Round(time.Millisecond).String()
}
