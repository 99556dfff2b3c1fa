// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tidegate/tidegate/internal/calls"
)

// impactLines say what a change does to sessions, where that is anything.
func impactLines(r *calls.Response) (lines []string) {
	for _, id := range slices.Sorted(maps.Keys(r.Impact)) {
		if i := r.Impact[id]; i.Cut+i.Draining > 0 || r.DryRun {
			lines = append(lines, fmt.Sprintf("%s: sessions kept %d, cut %d, draining %d", id, i.Kept, i.Cut, i.Draining))
		}
	}
	return lines
}

// printResult prints an answer; one without content is nothing.
func printResult(w io.Writer, format, title string, result any) error {
	raw, ok := result.(json.RawMessage)
	if !ok {
		return nil
	}
	if format == "json" {
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "    "); err != nil {
			return err
		}
		_, err := fmt.Fprintln(w, b.String())
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := decode(d)
	if err != nil {
		return err
	}
	if format == "text" {
		return printText(w, "", v)
	}
	tables := tablesOf(title, []row{{value: v}})
	for i, t := range tables {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := t.print(w); err != nil {
			return err
		}
	}
	return nil
}

// object is a JSON object whose keys keep their order.
type object []field

type field struct {
	key   string
	value any
}

// decode reads one JSON value: an object, a []any, or something plain.
func decode(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		o := object{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := decode(d)
			if err != nil {
				return nil, err
			}
			o = append(o, field{key.(string), v}) // keys are strings
		}
		_, err := d.Token()
		return o, err
	case json.Delim('['):
		a := []any{}
		for d.More() {
			v, err := decode(d)
			if err != nil {
				return nil, err
			}
			a = append(a, v)
		}
		_, err := d.Token()
		return a, err
	}
	return t, nil
}

// plain is how a value that is no object and no list is printed.
func plain(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool: // as aws has it
		if v {
			return "True"
		}
		return "False"
	}
	return fmt.Sprint(v)
}

// printText prints as aws --output text does: a line for each object, with its values in the order of their keys, tabs
// between them and its kind in front; objects in it follow.
func printText(w io.Writer, name string, v any) error {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if err := printText(w, name, e); err != nil {
				return err
			}
		}
	case object:
		sorted := slices.SortedFunc(slices.Values(v), func(a, b field) int { return cmp.Compare(a.key, b.key) })
		var line []string
		if name != "" {
			line = append(line, strings.ToUpper(name))
		}
		for _, f := range sorted {
			if !nested(f.value) {
				line = append(line, plain(f.value))
			}
		}
		if len(line) > 0 {
			if _, err := fmt.Fprintln(w, strings.Join(line, "\t")); err != nil {
				return err
			}
		}
		for _, f := range sorted {
			if nested(f.value) {
				if err := printText(w, f.key, f.value); err != nil {
					return err
				}
			}
		}
	default:
		_, err := fmt.Fprintf(w, "%s\t%s\n", strings.ToUpper(name), plain(v))
		return err
	}
	return nil
}

func nested(v any) bool {
	switch v.(type) {
	case object, []any:
		return true
	}
	return false
}

// row is an object of a table. What is in another object names that first.
type row struct {
	parent []field
	value  any
}

// table is objects of one kind, a line each.
type table struct {
	title   string
	columns []string
	rows    []map[string]string
}

// tablesOf are a table of the rows, and one for each kind of list in them.
func tablesOf(title string, rows []row) []table {
	t := table{title: title}
	lists := map[string][]row{}
	var order []string
	for _, r := range rows {
		o, ok := r.value.(object)
		if !ok {
			o = object{{title, r.value}}
		}
		cells := map[string]string{}
		var id []field
		for _, f := range append(slices.Clone(r.parent), flatten("", o)...) {
			list, ok := f.value.([]any)
			if !ok {
				if id == nil {
					id = []field{f}
				}
				if !slices.Contains(t.columns, f.key) {
					t.columns = append(t.columns, f.key)
				}
				cells[f.key] = plain(f.value)
				continue
			}
			if _, ok := lists[f.key]; !ok {
				order, lists[f.key] = append(order, f.key), nil
			}
			for _, e := range list {
				lists[f.key] = append(lists[f.key], row{id, e})
			}
		}
		t.rows = append(t.rows, cells)
	}
	var out []table
	if len(t.columns) > 0 || len(order) == 0 {
		out = append(out, t)
	}
	for _, key := range order {
		out = append(out, tablesOf(key, lists[key])...)
	}
	return out
}

// flatten makes fields of the objects in an object, with both names.
func flatten(prefix string, o object) (out []field) {
	for _, f := range o {
		if inner, ok := f.value.(object); ok {
			out = append(out, flatten(prefix+f.key+".", inner)...)
		} else {
			out = append(out, field{prefix + f.key, f.value})
		}
	}
	return out
}

func (t table) print(w io.Writer) error {
	fmt.Fprintln(w, t.title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(t.columns) > 0 {
		fmt.Fprintln(tw, "  "+strings.Join(t.columns, "\t"))
	}
	for _, r := range t.rows {
		var cells []string
		for _, c := range t.columns {
			cells = append(cells, cmp.Or(r[c], "-"))
		}
		if len(cells) > 0 {
			fmt.Fprintln(tw, "  "+strings.Join(cells, "\t"))
		}
	}
	return tw.Flush()
}
