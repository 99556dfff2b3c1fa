// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"maps"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// restart keeps what has changed, and now and then makes the second model anew from all that was kept: it is the same
// down to its books.
func (c *caller) restart(t *rapid.T) {
	if c.kept == nil {
		c.kept = map[[2]string]Record{}
	}
	_, err := c.one.Changes()
	fatal(t, err)
	changes, err := c.two.Changes()
	fatal(t, err)
	for _, r := range changes {
		if c.kept[[2]string{r.Kind, r.ID}] = r; r.Value == nil {
			delete(c.kept, [2]string{r.Kind, r.ID})
		}
	}
	if rapid.IntRange(0, 7).Draw(t, "restart") > 0 {
		return
	}
	c.two, err = Restore(c.two.cfg, maps.Values(c.kept))
	fatal(t, err)
	if one, two := c.one.snapshot(), c.two.snapshot(); one != two {
		t.Fatalf("restored:\n%s\nwas:\n%s", two, one)
	}
}

// TestState_EveryStoreIsKept: each store of the model is one that Changes tells of, and JSON loses nothing of what is in it.
func TestState_EveryStoreIsKept(t *testing.T) {
	m := &Model{}
	kept := map[uintptr]bool{}
	for _, b := range m.books() {
		kept[reflect.ValueOf(b).Pointer()] = true
	}
	found := 0
	var look func(v reflect.Value)
	look = func(v reflect.Value) {
		for i := range v.NumField() {
			f := v.Field(i)
			switch {
			case f.Kind() == reflect.Struct && strings.HasPrefix(f.Type().Name(), "store["):
				found++
				if !kept[f.UnsafeAddr()] {
					t.Errorf("%s is in no book", v.Type().Field(i).Name)
				}
				lossless(t, f.FieldByName("byID").Type().Elem())
			case f.Type() == reflect.TypeFor[pool]():
				look(f)
			}
		}
	}
	look(reflect.ValueOf(m).Elem())
	if found != len(kept) || found == 0 {
		t.Errorf("%d stores, %d books", found, len(kept))
	}
}

// lossless wants every field to be exported, down to the types that have a text of their own.
func lossless(t *testing.T, v reflect.Type) {
	if _, ok := v.MethodByName("MarshalText"); ok {
		return
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		lossless(t, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.IsExported() {
				lossless(t, f.Type)
			} else {
				t.Errorf("%v.%s is not exported, so it is lost", v, f.Name)
			}
		}
	case reflect.Map, reflect.Pointer, reflect.Interface, reflect.Func, reflect.Chan:
		t.Errorf("%v is no plain value", v)
	}
}
