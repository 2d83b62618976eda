// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
)

// pledge is something that deltaplane promises, or a fault that it survives. Its number, behind the page's mark, is what
// tests name it by.
type pledge struct {
	number int
	title  string
	seen   string // what must be seen
}

// pledgePage is a page of pledges, each with the tests that show it. One without a test is refused.
type pledgePage struct {
	title, mark, letter, intro string
	pledges                    []pledge
}

var promisesPage = pledgePage{
	title: "Promises", mark: "Promise", letter: "P",
	intro: "What may be relied on, and the tests that show it, which run with `make test`. The sentences stand above the tests.",
	pledges: []pledge{
		{1, "what nodes hold is what Kubernetes says", "the digest of the rows in each kernel is compared with what a full compilation gives, all the time"},
		{2, "no packet sees half a change", "whoever reads the maps in the order of a packet's path finds the old rows or the new ones"},
		{3, "the pipeline may go away", "losing watcher, compiler, bus or programmer, or all of them, changes no forwarding"},
		{4, "restarts and upgrades cost nothing", "no packet and no connection is lost by them"},
		{5, "who is stale or edited is named", "within 5 seconds, with the reason"},
		{6, "every drop has a reason and a rule", "no packet is dropped without a reason that people can read, and what a policy denies names it"},
		{7, "only the compiler decides", "nothing on the bus changes what is enforced unless it bears the compiler's seal"},
		{8, "a rollback is fast", "to any revision that DELTA keeps in less than 1 s, and it is held until somebody resumes"},
		{9, "a node's credential is a node's", "it reads that node's layers and forges nothing"},
	},
}

var faultsPage = pledgePage{
	title: "Faults", mark: "Fault",
	intro: "What is bound to go wrong in a cluster, what deltaplane does then, and the tests that make it go wrong. The sentences stand above the tests.",
	pledges: []pledge{
		{1, "a delta is lost, also the last one before silence; deltas come twice or in another order", "found within a second and repaired without a snapshot; no packet is lost"},
		{2, "a compiler is killed amid a batch, or stopped for 30 s and resumed; two believe they lead", "a batch is there as a whole or not at all; what the deposed one says is refused; nodes write nothing"},
		{3, "a programmer is killed at any write of a change", "no reader sees a broken state; the restart finishes the change"},
		{4, "all nodes restart at once", "all hold everything within a minute, and none asks the API server"},
		{5, "bus servers restart, quorum or volumes are lost, an old backup is restored", "forwarding is as before; the loss is noticed and named; everything is filled from Kubernetes again"},
		{6, "the API server begins anew, answers from an older replica, or with an empty list", "nothing is deleted because of an incomplete list; deletions beyond a share wait for approval"},
		{7, "objects come in any order", "the same digest, whatever the order"},
		{8, "a node is slow or its connection is stuck", "it is repaired later, others don't notice, and it is named"},
		{9, "a map is full", "refused by name before the first write; what was there stays"},
		{10, "somebody edits a map", "found, named, repaired and told on the bus"},
		{11, "endpoints flip ten thousand times a second", "at most 20 messages a second for a node, with bounded latency and memory"},
		{12, "an object is poison: huge, explosive or invalid", "it is set aside with a status, and everything else works"},
		{13, "a node is compromised", "foreign subjects, forged deltas, heartbeats and reports are denied, floods are limited"},
		{14, "incremental and full compilation differ", "the comparison finds it, falls back to the full one and keeps both for the report"},
	},
}

func (b *pledgePage) write(top string) (string, error) {
	all, err := shownBy(top)
	if err != nil {
		return "", err
	}
	known := map[int]bool{}
	p := newPage(b.title, b.intro)
	for _, one := range b.pledges {
		known[one.number] = true
		list := all[b.mark+" "+strconv.Itoa(one.number)]
		if len(list) == 0 {
			return "", fmt.Errorf("no test shows %s %s%d, %q: put \"%s %s%d: ...\" above one", b.mark, b.letter, one.number, one.title, b.mark, b.letter, one.number)
		}
		p.section(fmt.Sprintf("%s%d. %s", b.letter, one.number, one.title))
		p.text("What must be seen: " + one.seen + ".")
		var rows [][]string
		for _, s := range list {
			rows = append(rows, []string{s.says, s.link()})
		}
		p.table([]string{"what is shown", "shown by"}, rows)
	}
	return p.String(), checkMarks(all, b.mark, func(n int) bool { return known[n] })
}
