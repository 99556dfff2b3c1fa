// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// TestSchema: the schema takes what Parse takes, finds what the table says it finds, and never finds what is no fault.
func TestSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	validate := func(file string) (valid, yamlOK bool) {
		var v any
		if err := yaml.Unmarshal([]byte(file), &v); err != nil {
			return false, false
		}
		if v == nil {
			v = map[string]any{}
		}
		return schema.Validate(v) == nil, true
	}
	example, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, good := range []string{string(example), minimal, minimal + "static:\nforwards: []\ntimeouts: {udp: 2h4m}\nmss_clamp: 1400\n"} {
		if _, err := Parse("f.yaml", []byte(good)); err != nil {
			t.Error(err)
		}
		if ok, _ := validate(good); !ok {
			t.Errorf("the schema refuses\n%s", good)
		}
	}
	for _, b := range bad {
		if ok, isYAML := validate(b.file); isYAML && ok == b.schema {
			t.Errorf("%s: valid by the schema: %v", b.name, ok)
		}
	}
}

// TestSchemaKeys: no key is in one of schema and Config alone.
func TestSchemaKeys(t *testing.T) {
	b, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var root schemaNode
	if err := json.Unmarshal(b, &root); err != nil {
		t.Fatal(err)
	}
	in := map[string]bool{}
	root.keys("", in)
	if d := cmp.Diff(allKeys(reflect.TypeFor[Config](), ""), in); d != "" {
		t.Error(d)
	}
}

type schemaNode struct {
	Properties map[string]*schemaNode
	Items      *schemaNode
	Additional *bool `json:"additionalProperties"`
}

func (s *schemaNode) keys(path string, into map[string]bool) {
	for k, p := range s.Properties {
		into[join(path, k)] = true
		p.keys(join(path, k), into)
	}
	if s.Items != nil {
		s.Items.keys(path, into)
	}
}

// allKeys are the paths of all keys, without list indexes.
func allKeys(t reflect.Type, path string) map[string]bool {
	all := map[string]bool{}
	for i, k := range keys(t) {
		sub := join(path, k)
		all[sub] = true
		ft := t.Field(i).Type
		if ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		if v := reflect.New(ft).Elem(); !isLeaf(v) {
			for k := range allKeys(ft, sub) {
				all[k] = true
			}
		}
	}
	return all
}

// collect are the same paths as they stand in a file.
func collect(n *yaml.Node, path string, into map[string]bool) {
	switch n.Kind {
	case yaml.SequenceNode:
		for _, e := range n.Content {
			collect(e, path, into)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			sub := join(path, strings.TrimSpace(n.Content[i].Value))
			into[sub] = true
			collect(n.Content[i+1], sub, into)
		}
	}
}
