// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/region"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/vpc"
)

// Codes of refusals that are not the model's.
const (
	// UnknownParameter: a parameter that the call does not have.
	UnknownParameter vpc.Code = "UnknownParameter"
	// InvalidAction: there is no such call.
	InvalidAction vpc.Code = "InvalidAction"
	// InternalError: it is not the caller's fault.
	InternalError vpc.Code = "InternalError"
)

// Call is one call.
type Call struct {
	// Name is that of the EC2 API, such as AllocateAddress; Help says in a line what it does.
	Name, Help string
	// Reads marks a call that changes nothing.
	Reads bool
	// New makes its parameters: a pointer to a struct whose fields have the names of the API. The tag required is on
	// those that must not be zero, help on all.
	New func() any
	do  func(m *vpc.Model, now time.Time, in any) (any, error)
	// measure is in the place of do for a call that is not about the model.
	measure func(r *region.Region, in any) (any, error)
}

// Do makes a call of the model with parameters that New made. What it returns has the shape of the API's answer; nil is an
// answer without content.
func (c *Call) Do(m *vpc.Model, now time.Time, in any) (any, error) {
	if err := whole(in); err != nil {
		return nil, err
	}
	return c.do(m, now, in)
}

// whole reports a parameter that is missing.
func whole(in any) error {
	v := reflect.ValueOf(in).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if _, ok := f.Tag.Lookup("required"); ok && v.Field(i).IsZero() {
			return refuse(vpc.MissingParameter, "the request must have the parameter %s", f.Name)
		}
	}
	return nil
}

// Find is the call of this name, or nil.
func Find(name string) *Call { return byName[name] }

var byName = func() map[string]*Call {
	m := map[string]*Call{}
	for i := range Table {
		m[Table[i].Name] = &Table[i]
	}
	return m
}()

// Command is the name as a command line has it, such as allocate-address.
func (c *Call) Command() string {
	var s strings.Builder
	for i, r := range c.Name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				s.WriteByte('-')
			}
			r += 'a' - 'A'
		}
		s.WriteRune(r)
	}
	return s.String()
}

// Response is the answer to a call.
type Response struct {
	// Result has the shape of the EC2 API's answer; nil if that has no content.
	Result any `json:",omitempty"`
	// DryRun says that nothing was changed.
	DryRun bool `json:",omitempty"`
	// Impact says by VPC what a change does to sessions.
	Impact map[string]nat.Impact `json:",omitempty"`
}

// Failure is why a call was refused: an error code of the EC2 API for programs, and a sentence for people.
type Failure struct{ Code, Message string }

// Error is both.
func (f *Failure) Error() string { return f.Code + ": " + f.Message }

func refuse(code vpc.Code, format string, args ...any) error {
	return &vpc.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// change makes the entry of a call that changes the model.
func change[I any](name, help string, do func(m *vpc.Model, now time.Time, in *I) (any, error)) Call {
	return Call{Name: name, Help: help, New: func() any { return new(I) }, do: func(m *vpc.Model, now time.Time, in any) (any, error) {
		return do(m, now, in.(*I))
	}}
}

// read makes the entry of a call that does not.
func read[I any](name, help string, do func(m *vpc.Model, in *I) (any, error)) Call {
	c := change(name, help, func(m *vpc.Model, _ time.Time, in *I) (any, error) { return do(m, in) })
	c.Reads = true
	return c
}

// choose are the shapes of those objects that are asked for, in the order of all; with no ids of all of them.
func choose[T, S any](all []T, ids []string, id func(T) string, notFound vpc.Code, shape func(T) S) ([]S, error) {
	wanted := map[string]bool{}
	for _, s := range ids {
		wanted[s] = true
	}
	out := []S{}
	for _, v := range all {
		if len(ids) == 0 || wanted[id(v)] {
			out = append(out, shape(v))
			delete(wanted, id(v))
		}
	}
	for _, s := range ids {
		if wanted[s] {
			return nil, refuse(notFound, "the ID %q does not exist", s)
		}
	}
	return out, nil
}
