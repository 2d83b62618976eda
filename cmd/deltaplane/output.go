// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

// outputFormat is the value of -o. Its zero value is the table for people.
type outputFormat string

// The formats that every command has.
const (
	formatTable outputFormat = "table"
	formatWide  outputFormat = "wide"
	formatJSON  outputFormat = "json"
	formatYAML  outputFormat = "yaml"
	formatJSONL outputFormat = "jsonl" // one object a line; only where a command says so
)

// addFlag gives cmd the flag -o, with the formats that every command has and those of more.
func (f *outputFormat) addFlag(cmd *cobra.Command, more ...outputFormat) {
	*f = formatTable
	formats := append([]outputFormat{formatTable, formatJSON, formatYAML, formatWide}, more...)
	cmd.Flags().VarP(&formatFlag{f, formats}, "output", "o", "output format: "+joinFormats(formats))
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(words(formats), cobra.ShellCompDirectiveNoFileComp)))
}

// print writes value as JSON or YAML, or lets table write it for people.
func (f outputFormat) print(w io.Writer, value any, table func(io.Writer) error) error {
	switch f {
	case formatJSON, formatJSONL:
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		if f == formatJSON {
			encoder.SetIndent("", "  ")
		}
		return encoder.Encode(value)
	case formatYAML:
		text, err := yaml.Marshal(value)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	return table(w)
}

// formatFlag refuses formats that a command doesn't have while flags are parsed.
type formatFlag struct {
	format  *outputFormat
	allowed []outputFormat
}

// String implements pflag.Value.
func (f *formatFlag) String() string { return string(*f.format) }

// Type implements pflag.Value.
func (f *formatFlag) Type() string { return "format" }

// Set implements pflag.Value.
func (f *formatFlag) Set(s string) error {
	if !slices.Contains(f.allowed, outputFormat(s)) {
		return fmt.Errorf("want one of %s", joinFormats(f.allowed))
	}
	*f.format = outputFormat(s)
	return nil
}

func words(formats []outputFormat) []string {
	var all []string
	for _, f := range formats {
		all = append(all, string(f))
	}
	return all
}

func joinFormats(formats []outputFormat) string { return strings.Join(words(formats), ", ") }

// paint colours text for people on a terminal, and leaves it alone elsewhere. See https://no-color.org.
type paint struct{ on bool }

func paintFor(w io.Writer) paint {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return paint{}
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return paint{on: err == nil}
}

func (p paint) green(s string) string  { return p.wrap("32", s) }
func (p paint) yellow(s string) string { return p.wrap("33", s) }
func (p paint) red(s string) string    { return p.wrap("31", s) }
func (p paint) bold(s string) string   { return p.wrap("1", s) }
func (p paint) faint(s string) string  { return p.wrap("2", s) }

func (p paint) wrap(code, s string) string {
	if !p.on {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// must is for errors that only a mistake in this program can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
