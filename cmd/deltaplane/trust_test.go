// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
)

var trustCommand = regexp.MustCompile(`(?m)^\$ deltaplane (trust .*)$`)

// What the pages for operators say to type about trust works, in the order of the pages.
func TestTrustCommandsOfThePagesWork(t *testing.T) {
	var commands []string
	for _, page := range []string{"install.md", "bus.md"} {
		text, err := os.ReadFile("../../docs/operations/" + page)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range trustCommand.FindAllStringSubmatch(string(text), -1) {
			commands = append(commands, found[1])
		}
	}
	t.Chdir(t.TempDir())
	said := &bytes.Buffer{}
	for _, command := range commands {
		root := newRootCommand("deltaplane")
		root.SetArgs(strings.Fields(command))
		root.SetOut(said)
		root.SetErr(said)
		if err := root.Execute(); err != nil {
			t.Errorf("deltaplane %s: %v", command, err)
		}
	}
	for _, want := range []string{
		"FOLDER", "node-a is put out", "changed: trust/watcher/revoked-nodes", "changed: trust/watcher/nodes.nk",
		"changed: trust/bus/accounts.conf", "nats-server --signal reload", "node-a may join again",
	} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("they don't say %q:\n%s", want, said)
		}
	}
}
