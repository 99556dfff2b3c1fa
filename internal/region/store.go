// SPDX-License-Identifier: Apache-2.0

package region

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tidegate/tidegate/vpc"
)

// The file is a bbolt database with two buckets.
//
// "tidegate": "version", a decimal number; "commits", how many there were; "sum", the sum of the hashes of all records,
// by which one that is lost or altered is noticed, since bbolt has no checksums of its data.
//
// "state": a record each, under kind, a zero byte, id; eight bytes of Order, big endian, then its Value.
const storeVersion = 1

var (
	headBucket, stateBucket           = []byte("tidegate"), []byte("state")
	versionKey, commitsKey, summedKey = []byte("version"), []byte("commits"), []byte("sum")
)

// The faults of a state file.
var (
	// ErrInUse: another process has it open.
	ErrInUse = errors.New("another process has it open; stop that first, or use another file")
	// ErrNewer: a later version of this program has written it.
	ErrNewer = errors.New("a later version of tidegate has written it; use that version")
	// ErrCorrupted: it is no state file, or a damaged one.
	ErrCorrupted = errors.New("it is damaged, or no state file of tidegate; put back a copy, or name another file")
)

// Store is a Journal in one file, which it locks. Its methods are safe for concurrent use.
type Store struct {
	path string
	db   *bbolt.DB

	mu           sync.Mutex
	commits, sum uint64
	doubt        error // why nothing may be committed any more
}

// OpenStore opens the file, and makes it if there is none. Whatever ends the process while it does, there is a whole file
// afterwards or none.
func OpenStore(path string) (*Store, error) {
	s := &Store{path: path}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, s.fault(err)
		}
	}
	var err error
	if s.db, err = open(path); err != nil {
		return nil, s.fault(err)
	}
	if _, err := s.load(); err != nil {
		return nil, errors.Join(s.fault(err), s.db.Close())
	}
	return s, nil
}

func (s *Store) fault(err error) error { return fmt.Errorf("the state file %s: %w", s.path, err) }

// guard makes an error of what bbolt does with a damaged file, which is to panic or to read beyond its end.
func guard(err *error) func() {
	old := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			*err = fmt.Errorf("%w (%v)", ErrCorrupted, p)
		}
	}
}

func open(path string) (db *bbolt.DB, err error) {
	defer guard(&err)()
	// A process that was killed a moment ago may still have it.
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, ErrInUse
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w (%w)", ErrCorrupted, err)
	}
	return db, err
}

// create makes an empty file under another name, and then gives it its own, unless another process was first.
func create(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return err
	}
	db, err := open(f.Name())
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		head, err := tx.CreateBucket(headBucket)
		if err != nil {
			return err
		}
		_, err = tx.CreateBucket(stateBucket)
		return errors.Join(err, head.Put(versionKey, strconv.AppendInt(nil, storeVersion, 10)), putNumber(head, commitsKey, 0), putNumber(head, summedKey, 0))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Records implements Journal.
func (s *Store) Records() ([]vpc.Record, error) {
	records, err := s.load()
	if err != nil {
		return nil, s.fault(err)
	}
	return records, nil
}

func (s *Store) load() (records []vpc.Record, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer guard(&err)()
	err = s.db.View(func(tx *bbolt.Tx) error {
		if st, err := os.Stat(s.path); err != nil || st.Size() < tx.Size() {
			return errors.Join(ErrCorrupted, err)
		}
		head, state := tx.Bucket(headBucket), tx.Bucket(stateBucket)
		if head == nil || state == nil {
			return ErrCorrupted
		}
		version, err := strconv.ParseUint(string(head.Get(versionKey)), 10, 32)
		switch {
		case err != nil || version == 0:
			return ErrCorrupted
		case version > storeVersion:
			return fmt.Errorf("%w (its format is %d, and this version knows %d)", ErrNewer, version, storeVersion)
		}
		commits, ok := number(head, commitsKey)
		want, ok2 := number(head, summedKey)
		var sum uint64
		err = state.ForEach(func(k, v []byte) error {
			kind, id, found := bytes.Cut(k, []byte{0})
			if !found || len(v) < 8 {
				return ErrCorrupted
			}
			sum += hash(k, v)
			records = append(records, vpc.Record{
				Kind: string(kind), ID: string(id), Order: binary.BigEndian.Uint64(v), Value: bytes.Clone(v[8:]),
			})
			return nil
		})
		if err == nil && (!ok || !ok2 || sum != want) {
			err = ErrCorrupted
		}
		s.commits, s.sum = commits, sum
		return err
	})
	return records, err
}

// Commit implements Journal. After a failure that leaves it open whether the records are on the disk it takes no more.
func (s *Store) Commit(records []vpc.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doubt != nil {
		return s.fault(s.doubt)
	}
	sum, err := s.update(records)
	if err == nil {
		s.commits, s.sum = s.commits+1, sum
		return nil
	}
	if n, failed := s.committed(); failed != nil || n != s.commits {
		s.doubt = fmt.Errorf("a change is in doubt since it failed with %q; start again to see what the file has", err)
		err = s.doubt
	}
	return s.fault(err)
}

func (s *Store) update(records []vpc.Record) (sum uint64, err error) {
	defer guard(&err)()
	err = s.db.Update(func(tx *bbolt.Tx) error {
		head, state := tx.Bucket(headBucket), tx.Bucket(stateBucket)
		sum = s.sum
		for _, r := range records {
			k := append(append([]byte(r.Kind), 0), r.ID...)
			if old := state.Get(k); old != nil {
				sum -= hash(k, old)
			}
			if r.Value == nil {
				if err := state.Delete(k); err != nil {
					return err
				}
				continue
			}
			v := append(binary.BigEndian.AppendUint64(nil, r.Order), r.Value...)
			sum += hash(k, v)
			if err := state.Put(k, v); err != nil {
				return err
			}
		}
		return errors.Join(putNumber(head, commitsKey, s.commits+1), putNumber(head, summedKey, sum))
	})
	return sum, err
}

// committed is how many commits the file has.
func (s *Store) committed() (n uint64, err error) {
	defer guard(&err)()
	err = s.db.View(func(tx *bbolt.Tx) error {
		n, _ = number(tx.Bucket(headBucket), commitsKey)
		return nil
	})
	return n, err
}

// Close gives the file free.
func (s *Store) Close() error { return s.db.Close() }

func number(b *bbolt.Bucket, key []byte) (uint64, bool) {
	v := b.Get(key)
	if len(v) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(v), true
}

func putNumber(b *bbolt.Bucket, key []byte, n uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, n))
}

func hash(k, v []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(k)))) // never fails (hash.Hash)
	_, _ = h.Write(k)
	_, _ = h.Write(v)
	return h.Sum64()
}
