// SPDX-License-Identifier: Apache-2.0

package region

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/tidegate/tidegate/vpc"
)

// fill makes a state file with some records.
func fill(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state")
	s, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 40 {
		id := fmt.Sprintf("i-%d", i%20)
		if err := s.Commit([]vpc.Record{{Kind: "instance", ID: id, Order: uint64(i), Value: fmt.Appendf(nil, `{"ID":%q,"N":%d}`, id, i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Commit([]vpc.Record{{Kind: "instance", ID: "i-3"}, {Kind: "instance", ID: "i-0", Order: 50, Value: []byte("{}")}}); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStore_KeepsTheLatest(t *testing.T) {
	s, err := OpenStore(fill(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	records, err := s.Records()
	if err != nil || len(records) != 19 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for _, r := range records {
		want := fmt.Sprintf(`{"ID":%q,"N":%d}`, r.ID, r.Order)
		if r.Order == 50 {
			want = "{}"
		}
		if r.Kind != "instance" || r.Order < 20 || string(r.Value) != want {
			t.Errorf("%s %s %d %s", r.Kind, r.ID, r.Order, r.Value)
		}
	}
}

// What cannot be used is refused with a sentence that says what to do, and left as it is.
func TestStore_Refuses(t *testing.T) {
	edit := func(t *testing.T, path string, f func(tx *bbolt.Tx) error) {
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Update(f), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		want  error
		spoil func(t *testing.T, path string)
	}{
		{"in use", ErrInUse, func(t *testing.T, path string) {
			s, err := OpenStore(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
		}},
		{"of a later version", ErrNewer, func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket(headBucket).Put(versionKey, []byte("2")) })
		}},
		{"without a version", ErrCorrupted, func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket(headBucket).Delete(versionKey) })
		}},
		{"of another program", ErrCorrupted, func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error { return tx.DeleteBucket(headBucket) })
		}},
		{"a record lost", ErrCorrupted, func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket(stateBucket).Delete([]byte("instance\x00i-7")) })
		}},
		{"no database", ErrCorrupted, func(t *testing.T, path string) { write(t, path, []byte(strings.Repeat("not a database\n", 3000))) }},
		{"a text", ErrCorrupted, func(t *testing.T, path string) { write(t, path, []byte("hello\n")) }},
		{"empty", ErrCorrupted, func(t *testing.T, path string) { write(t, path, nil) }},
		{"cut off", ErrCorrupted, func(t *testing.T, path string) {
			b := read(t, path)
			write(t, path, b[:3*os.Getpagesize()])
		}},
		{"one bit of a value", ErrCorrupted, func(t *testing.T, path string) {
			b := read(t, path)
			for at, rest := 0, b; ; { // in the page in use, and in those that are free
				i := bytes.Index(rest, []byte(`{"ID":"i-8"`))
				if i < 0 {
					break
				}
				at += i
				b[at+8] ^= 1
				at++
				rest = b[at:]
			}
			write(t, path, b)
		}},
		{"a directory", nil, func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := fill(t)
			c.spoil(t, path)
			before, _ := os.ReadFile(path) // not of a directory
			_, err := OpenStore(path)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if after, _ := os.ReadFile(path); len(before) > 0 && !bytes.Equal(after, before) {
				t.Error("the file is another one now")
			}
		})
	}
	if _, err := OpenStore(filepath.Join(t.TempDir(), "no", "state")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
}

func read(t *testing.T, path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Whatever is damaged in a file, opening it ends with all of its records or with an error, and so does a commit. One case
// cannot be told from a commit that a power failure has cut short: a damaged head page, of which there are two. Then it is
// what the commit before left.
func TestStore_AnyDamage(t *testing.T) {
	whole := read(t, fill(t))
	r := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 60 {
		b, path := bytes.Clone(whole), filepath.Join(t.TempDir(), "state")
		for range 1 + r.IntN(3) {
			page := r.IntN(len(b) / os.Getpagesize()) // its head, where it matters most, or anywhere
			at := page*os.Getpagesize() + r.IntN(128)
			if r.IntN(2) == 0 {
				at = page*os.Getpagesize() + r.IntN(os.Getpagesize())
			}
			b[at] ^= byte(1 + r.IntN(255))
		}
		write(t, path, b)
		s, err := OpenStore(path)
		if err != nil {
			refused++
			continue
		}
		records, err := s.Records()
		if n := len(records); err != nil || n != 19 && n != 20 {
			t.Errorf("%d records, %v", n, err)
		}
		had := len(records)
		if s.Commit([]vpc.Record{{Kind: "instance", ID: "i-99", Value: []byte("{}")}}) == nil {
			if records, err = s.Records(); err != nil || len(records) != had+1 {
				t.Errorf("after a commit %d records, %v", len(records), err)
			}
		}
		_ = s.Close() // of a file that may be damaged
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}
