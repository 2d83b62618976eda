// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// maxFileBytes bounds a file of settings.
const maxFileBytes = 1 << 20

// value is one setting out of a file: a scalar, or a list of scalars.
type value struct{ any }

// parse reads a file's keys; each must be a flag's name and stand there once.
func parse(data []byte, known []*pflag.Flag) (map[string]value, error) {
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%d bytes: at most %d", len(data), maxFileBytes)
	}
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fmt.Errorf("not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var all map[string]any
	decoder := json.NewDecoder(bytes.NewReader(asJSON))
	decoder.UseNumber() // so that 1000000 doesn't come back as 1e+06
	if err := decoder.Decode(&all); err != nil {
		return nil, fmt.Errorf("want keys and values, such as \"log-level: info\"")
	}
	values := make(map[string]value, len(all))
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if !slices.ContainsFunc(known, func(f *pflag.Flag) bool { return f.Name == key }) {
			return nil, fmt.Errorf("unknown key %q%s", key, suggestion(key, known))
		}
		values[key] = value{all[key]}
	}
	return values, nil
}

func suggestion(key string, known []*pflag.Flag) string {
	if len(known) == 0 {
		return ""
	}
	nearest := slices.MinFunc(known, func(a, b *pflag.Flag) int { return distance(key, a.Name) - distance(key, b.Name) })
	return fmt.Sprintf(": did you mean %q?", nearest.Name)
}

// setOn gives a flag the value.
func (v value) setOn(flags *pflag.FlagSet, f *pflag.Flag) error {
	list, isList := v.any.([]any)
	if !isList {
		text, err := scalar(v.any)
		if err != nil {
			return err
		}
		return flags.Set(f.Name, text)
	}
	to, ok := f.Value.(pflag.SliceValue)
	if !ok {
		return fmt.Errorf("want one value, not a list")
	}
	texts := make([]string, len(list))
	for i, item := range list {
		text, err := scalar(item)
		if err != nil {
			return err
		}
		texts[i] = text
	}
	return to.Replace(texts)
}

func scalar(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", fmt.Errorf("no value: give one or leave the key out")
	case string, bool, json.Number:
		return fmt.Sprint(v), nil
	}
	return "", fmt.Errorf("want a plain value, not keys of its own")
}

// distance is the number of letters to insert, delete or replace between a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
