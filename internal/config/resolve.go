// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// origins says where each flag's value comes from.
type origins map[string]string

// resolve fills in the flags that weren't given from the environment, then from the file.
func resolve(flags *pflag.FlagSet, path string, lookup func(string) (string, bool)) (origins, error) {
	from := origins{}
	if value, set := lookup(EnvName(fileFlag)); set && path == "" {
		path = value
	}
	values, err := readFile(path, settable(flags))
	if err != nil {
		return nil, err
	}
	for _, f := range settable(flags) {
		from[f.Name], err = fill(flags, f, path, values, lookup)
		if err != nil {
			return nil, err
		}
	}
	return from, nil
}

// fill gives one flag its value and returns where it comes from.
func fill(flags *pflag.FlagSet, f *pflag.Flag, path string, values map[string]value, lookup func(string) (string, bool)) (string, error) {
	if f.Changed {
		return "flag --" + f.Name, nil
	}
	if text, set := lookup(EnvName(f.Name)); set {
		origin := "environment " + EnvName(f.Name)
		if err := flags.Set(f.Name, text); err != nil {
			return "", fmt.Errorf("%s=%q: %w", origin, text, cause(err))
		}
		return origin, nil
	}
	if v, set := values[f.Name]; set {
		if err := v.setOn(flags, f); err != nil {
			return "", fmt.Errorf("file %s: %s: %w", path, f.Name, cause(err))
		}
		return "file " + path, nil
	}
	return "default", nil
}

// cause takes off what pflag says about the command line, when the value comes from elsewhere.
func cause(err error) error {
	if _, rest, ok := strings.Cut(err.Error(), `" flag: `); ok {
		return fmt.Errorf("%s", rest)
	}
	return err
}

// settable returns the flags that are settings, in alphabetical order.
func settable(flags *pflag.FlagSet) []*pflag.Flag {
	var all []*pflag.Flag
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != fileFlag && f.Name != printFlag && f.Name != "help" && f.Name != "version" {
			all = append(all, f)
		}
	})
	return all
}

// print writes the settings as a file that --config takes, with origins as comments.
func (o origins) print(w io.Writer, name string, flags *pflag.FlagSet) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# The settings of %s in force, with their origin.\n", name)
	for _, f := range settable(flags) {
		line := f.Name + ": " + yamlValue(f)
		fmt.Fprintf(&b, "%-40s # %s\n", line, o[f.Name])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// secret is the password, or the token, of an URL.
var secret = regexp.MustCompile(`://(?:([^:/@,\s]*):)?[^/@,\s]*@`)

// yamlValue returns a flag's value as YAML, without passwords.
func yamlValue(f *pflag.Flag) string {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		var quoted []string
		for _, v := range list.GetSlice() {
			quoted = append(quoted, yamlText(v))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	switch f.Value.Type() {
	case "string":
		return yamlText(f.Value.String())
	}
	return f.Value.String()
}

func yamlText(text string) string {
	text = secret.ReplaceAllString(text, "://$1:xxxxx@")
	var back any
	if plain := yaml.Unmarshal([]byte("v: "+text), &back) == nil; plain && text != "" {
		if m, ok := back.(map[string]any); ok && m["v"] == text {
			return text
		}
	}
	return strconv.Quote(text)
}

// readFile reads a strict YAML file of settings; no path is no file.
func readFile(path string, known []*pflag.Flag) (map[string]value, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	values, err := parse(data, known)
	if err != nil {
		return nil, fmt.Errorf("file %s: %w", path, err)
	}
	return values, nil
}
