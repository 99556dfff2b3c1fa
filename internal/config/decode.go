// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Load reads a file. The error is Faults if the file could be read.
func Load(name string) (*Config, error) { return LoadNext(name, nil) }

// LoadNext reads a file that a gateway is to go on with: what it cannot change while it runs is a fault, too. Without
// a running configuration it is Load.
func LoadNext(name string, running *Config) (*Config, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parse(name, b, running)
}

// Parse reads the content of a file; name is for messages. The error is Faults.
func Parse(name string, b []byte) (*Config, error) { return parse(name, b, nil) }

func parse(name string, b []byte, running *Config) (*Config, error) {
	d := decoder{faults{source: name, places: map[string]place{}}}
	root := d.document(b)
	if root == nil {
		return nil, d.err()
	}
	// The profile decides what the other keys default to.
	profile := Profile("gateway")
	if p := child(root, "profile"); p != nil && slices.Contains(profile.words(), p.Value) {
		profile = Profile(p.Value)
	}
	c := Default(profile)
	d.value(root, reflect.ValueOf(c).Elem(), "")
	c.check(&d.faults)
	if running != nil {
		c.checkFixed(&d.faults, running)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return c, nil
}

type decoder struct{ faults }

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// document is the mapping at the top of the only document, or nil if there is none to go on with.
func (d *decoder) document(b []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	if err == nil {
		if err = dec.Decode(&more); err == nil {
			d.all = append(d.all, Fault{d.source, more.Line, "", "a second document starts here: one file is one configuration"})
			return nil
		}
	} else if errors.Is(err, io.EOF) {
		return &yaml.Node{Kind: yaml.MappingNode}
	}
	if !errors.Is(err, io.EOF) {
		m := yamlLine.FindStringSubmatch(err.Error())
		if m == nil {
			m = []string{"", "", err.Error()}
		}
		line, _ := strconv.Atoi(m[1])
		d.all = append(d.all, Fault{d.source, line, "", "not YAML: " + m[2]})
		return nil
	}
	root := doc.Content[0]
	if isNull(root) {
		return &yaml.Node{Kind: yaml.MappingNode}
	}
	if root.Kind != yaml.MappingNode {
		d.all = append(d.all, Fault{d.source, root.Line, "", "the file must be keys and values, such as \"inside: {prefixes: [10.0.0.0/16]}\""})
		return nil
	}
	return root
}

func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// value decodes n into v, whose key is path.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if _, ok := d.places[path]; !ok && path != "" { // a list item; keys have the line of the key
		d.places[path] = place{d.source, n.Line}
	}
	if n.Kind == yaml.AliasNode {
		d.at(path, "aliases are not understood here: write the value out")
		return
	}
	switch {
	case isLeaf(v):
		if n.Kind != yaml.ScalarNode || isNull(n) {
			d.at(path, "must be %s", kindOf(v))
			return
		}
		if err := setScalar(v, n); err != nil {
			d.at(path, "%s", err)
		}
	case isNull(n): // "static:" with nothing after it
	case v.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.at(path, "must be a list: write [%s]", kindOf(reflect.New(v.Type().Elem()).Elem()))
			return
		}
		list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, e := range n.Content {
			d.value(e, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
		v.Set(list)
	default:
		d.mapping(n, v, path)
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	names := keys(v.Type())
	if n.Kind != yaml.MappingNode {
		d.at(path, "must have keys: %s", strings.Join(names, ", "))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		sub := join(path, k.Value)
		switch at := slices.Index(names, k.Value); {
		case at < 0:
			d.all = append(d.all, Fault{d.source, k.Line, sub, unknown(k.Value, names)})
		case seen[k.Value] > 0:
			d.all = append(d.all, Fault{d.source, k.Line, sub, fmt.Sprintf("is also on line %d: keep one of them", seen[k.Value])})
		default:
			seen[k.Value] = k.Line
			d.places[sub] = place{d.source, k.Line}
			d.value(n.Content[i+1], v.Field(at), sub)
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// keys are the names of a struct's fields in the file, in order.
func keys(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i], _, _ = strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
	}
	return names
}

func unknown(key string, names []string) string {
	best, at := 3, ""
	for _, n := range names {
		if d := distance(key, n); d < best || strings.ReplaceAll(key, "-", "_") == n {
			best, at = d, n
		}
	}
	if at != "" {
		return fmt.Sprintf("unknown key: did you mean %q?", at)
	}
	return "unknown key: there are " + strings.Join(names, ", ")
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// isLeaf reports whether v is written as a scalar.
func isLeaf(v reflect.Value) bool {
	switch v.Interface().(type) {
	case netip.Addr, netip.Prefix, netip.AddrPort, Range:
		return true
	}
	return v.Kind() != reflect.Struct && v.Kind() != reflect.Slice
}

// kindOf says what is expected, with an example.
func kindOf(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case word:
		return strings.Join(x.words(), " or ")
	case netip.Addr:
		return "an IPv4 address such as 203.0.113.1"
	case netip.Prefix:
		return "an IPv4 prefix such as 10.0.0.0/16"
	case netip.AddrPort:
		return "an IPv4 address and a port such as 203.0.113.1:8080"
	case Range:
		return "an address such as 203.0.113.1"
	case Duration:
		return "a time with its unit such as 300s"
	case bool:
		return "true or false"
	case int:
		return "a whole number"
	case string:
		return "a word"
	default:
		return "{" + strings.Join(keys(v.Type()), ": ..., ") + ": ...}"
	}
}

// setScalar sets a leaf; the error says what is wrong and what would be right.
func setScalar(v reflect.Value, n *yaml.Node) error {
	switch v.Kind() {
	case reflect.Bool:
		if n.Tag != "!!bool" {
			return fmt.Errorf("%q is not a yes or no: write true or false", n.Value)
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
		return nil
	case reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if n.Tag != "!!int" || err != nil {
			return fmt.Errorf("%q is not a whole number: write digits only, without quotes", n.Value)
		}
		v.SetInt(int64(i))
		return nil
	}
	return setText(v, n.Value)
}

// setText sets the leaves that are texts, which flags have, too.
func setText(v reflect.Value, s string) (err error) {
	switch p := v.Addr().Interface().(type) {
	case *netip.Addr:
		if *p, err = parseAddr(s); err != nil {
			return fmt.Errorf("%q is not an IPv4 address: write one such as 203.0.113.1", s)
		}
	case *netip.Prefix:
		*p, err = parsePrefix(s)
	case *netip.AddrPort:
		a, perr := netip.ParseAddrPort(s)
		if perr != nil || !a.Addr().Is4() || a.Port() == 0 {
			return fmt.Errorf("%q is not an IPv4 address and a port from 1 to 65535: write one such as 203.0.113.1:8080", s)
		}
		*p = a
	case *Range:
		*p, err = ParseRange(s)
	case *Duration:
		t, err := parseDuration(s)
		if err != nil {
			return err
		}
		*p = t
	default:
		if w, ok := v.Interface().(word); ok && !slices.Contains(w.words(), s) {
			return fmt.Errorf("%q is none of its values: write %s", s, kindOf(v))
		}
		v.SetString(s)
	}
	return err
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && !a.Is4() {
		err = errors.New("not IPv4")
	}
	return a, err
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("%q is not an IPv4 prefix: write one such as 10.0.0.0/16", s)
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its length: write %s, or %s/32 for the one address", s, m, p.Addr())
	}
	return p, nil
}

func parseDuration(s string) (Duration, error) {
	if _, err := strconv.Atoi(s); err == nil {
		return 0, fmt.Errorf("%s has no unit: write %ss for seconds", s, s)
	}
	t, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time: write a number and its unit, such as 300s, 5m or 2h4m", s)
	}
	return Duration(t), nil
}
