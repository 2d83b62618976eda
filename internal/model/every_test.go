// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/deltaplane/deltaplane/internal/model"
)

// anyValue returns a value of a type that is none of its zero values.
func anyValue(of reflect.Type) reflect.Value {
	v := reflect.New(of).Elem()
	switch of {
	case reflect.TypeFor[netip.Addr]():
		return reflect.ValueOf(netip.MustParseAddr("10.0.0.1"))
	case reflect.TypeFor[netip.Prefix]():
		return reflect.ValueOf(netip.MustParsePrefix("10.0.0.0/8"))
	}
	switch of.Kind() {
	case reflect.Struct:
		for i := range of.NumField() {
			v.Field(i).Set(anyValue(of.Field(i).Type))
		}
	case reflect.String:
		v.SetString("a")
	case reflect.Bool:
		v.SetBool(true)
	default:
		v.SetUint(1)
	}
	return v
}

// add appends to the list of a table in Rows or Keys.
func add(to any, table string, v reflect.Value) {
	list := reflect.ValueOf(to).Elem().FieldByName(table)
	list.Set(reflect.Append(list, v))
}

// What is done with rows is done with those of every table: who adds a table can forget no place.
func TestEveryTableTakesPartInEverything(t *testing.T) {
	for field := range reflect.TypeFor[model.Rows]().Fields() {
		t.Run(field.Name, func(t *testing.T) {
			row := anyValue(field.Type.Elem())
			put, remove := &model.Change{}, &model.Change{}
			add(&put.Put, field.Name, row)
			add(&remove.Remove, field.Name, row.MethodByName("Key").Call(nil)[0])
			tables := model.NewTables()
			digest := tables.Apply(put, model.Digest{})
			if tables.Len() != 1 || digest == (model.Digest{}) || tables.Digest() != digest {
				t.Fatalf("%d rows, digest %s, kept as %s", tables.Len(), tables.Digest(), digest)
			}
			takesPart(t, tables, put, remove)
			inTrees(t, put, remove)
			if rest := tables.Apply(remove, digest); tables.Len() != 0 || rest != (model.Digest{}) {
				t.Errorf("after it was removed there are %d rows, digest %s", tables.Len(), rest)
			}
		})
	}
}

// takesPart tries what is done to tables that hold the one row that a change puts.
func takesPart(t *testing.T, tables *model.Tables, put, remove *model.Change) {
	t.Helper()
	var rows model.Rows
	rows.Append(&put.Put)
	var keys model.Keys
	keys.Append(&remove.Remove)
	var trimmed model.Change
	trimmed.Put.Append(&put.Put)
	trimmed.Trim(tables)
	joined, again := model.Join(put, remove), model.Join(remove, put)
	for what, counts := range map[string][2]int{
		"rows appended": {rows.Len(), 1}, "keys appended": {keys.Len(), 1},
		"rows that are there already": {trimmed.Put.Len(), 0},
		"rows cloned":                 {tables.Clone().Len(), 1},
		"rows that differ from none":  {model.Diff(&model.Tables{}, tables).Put.Len(), 1},
		"keys that none has":          {model.Diff(tables, &model.Tables{}).Remove.Len(), 1},
		"rows found by key":           {count(tables.Find(&keys)), 1},
		"keys that no row has":        {countKeys(tables.Lacking(&model.Rows{})), 1},
		"keys that a row has":         {countKeys(tables.Lacking(&rows)), 0},
		"keys removed after all":      {joined.Remove.Len(), 1},
		"rows put and removed":        {joined.Put.Len(), 0},
		"rows put after all":          {again.Put.Len(), 1},
		"keys removed, and put again": {again.Remove.Len(), 0},
	} {
		if counts[0] != counts[1] {
			t.Errorf("%s: %d, want %d", what, counts[0], counts[1])
		}
	}
	none := model.NewTables()
	if !tables.Has(put) || tables.Has(remove) || none.Has(put) || !none.Has(remove) {
		t.Errorf("with the row, put %t and removed %t; without, %t and %t", tables.Has(put), tables.Has(remove), none.Has(put), none.Has(remove))
	}
}

func inTrees(t *testing.T, put, remove *model.Change) {
	t.Helper()
	tree := model.NewTree(&put.Put)
	if diff := cmp.Diff(remove.Remove, tree.Keys(model.Root), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("keys in a tree (-want +got):\n%s", diff)
	}
	grown := model.NewTree(&model.Rows{})
	grown.Apply(put)
	if a, b := fmt.Sprint(tree.Sum(model.Root)), fmt.Sprint(grown.Sum(model.Root)); a != b {
		t.Errorf("a tree comes to %s, and if it grows to %s", a, b)
	}
	if grown.Apply(remove); grown.Len() != 0 {
		t.Errorf("%d rows are left in a tree", grown.Len())
	}
}

func count(r model.Rows) int     { return r.Len() }
func countKeys(k model.Keys) int { return k.Len() }
