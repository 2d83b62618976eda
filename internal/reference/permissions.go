// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/deltaplane/deltaplane/internal/trust"
)

// permissionsPage says who may do what on the bus, from the table that the accounts are made from.
func permissionsPage(string) (string, error) {
	p := newPage("Permissions", "Who may do what on the bus. What isn't listed is refused. `deltaplane trust init` makes the accounts from the same "+
		"table, package `internal/trust`, and `test/trust` tries every subject as every kind of user. `NAME` is the user's own name: for a node the node's, as one token.")
	p.section("Kinds of users")
	var rows [][]string
	for _, r := range trust.Roles {
		answers := "no"
		if r.Answers {
			answers = "yes"
		}
		rows = append(rows, []string{r.Name, r.Account, r.Who, listed(r.Publish), listed(r.Subscribe), answers})
	}
	p.table([]string{"user", "account", "who", "publishes", "listens", "answers who asks"}, rows)
	p.section("Ways from one account into another")
	rows = nil
	for _, s := range trust.Shares {
		how := "hears"
		if s.Service {
			how = "asks"
		}
		rows = append(rows, []string{s.To, how, s.From, "`" + s.Local + "`", s.What})
	}
	p.table([]string{"account", "", "account", "subject", "what for"}, rows)
	return p.String(), nil
}

func listed(subjects []string) string {
	if len(subjects) == 0 {
		return "nothing"
	}
	return "`" + strings.ReplaceAll(strings.Join(subjects, "`<br>`"), "{{name()}}", "NAME") + "`"
}
