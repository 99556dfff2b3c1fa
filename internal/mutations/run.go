// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// fate is what became of a mutation.
type fate string

const (
	found     fate = "found"
	survived  fate = "SURVIVED"
	unapplied fate = "does not apply"
	unbuilt   fate = "does not build"
	missing   fate = "no patch"
	untested  fate = "no such tests"
	broken    fate = "did not run"
)

type result struct {
	row
	fate
	note string // what the test said first, or what went wrong
	took time.Duration
}

// tested is the package of the row tests.
const tested = "./nat"

// runAll runs rows in their order, some at once, as long as there is to be more, and tells of each as it is done.
func runAll(ctx context.Context, root string, rows []row, jobs int, more func() bool, tell func(result)) []result {
	results := make([]result, len(rows))
	begun := 0
	var wg sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, jobs)
	for i, r := range rows {
		slots <- struct{}{}
		if !more() {
			break
		}
		begun++
		wg.Go(func() {
			defer func() { <-slots }()
			start := time.Now()
			res := result{row: r}
			res.fate, res.note = run(ctx, root, r)
			res.took = time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			results[i] = res
			tell(res)
		})
	}
	wg.Wait()
	return results[:begun]
}

// run plants the mistake of a row and runs the tests of the row.
func run(ctx context.Context, root string, r row) (fate, string) {
	if r.patch == "" {
		return missing, "write testdata/mutations/" + r.name + ".patch"
	}
	tmp, err := os.MkdirTemp("", "mutation")
	if err != nil {
		return unbuilt, err.Error()
	}
	defer os.RemoveAll(tmp)
	replace, err := plant(ctx, root, r.patch, tmp)
	if err != nil {
		return unapplied, err.Error()
	}
	hideOthers(root, replace)
	overlay := filepath.Join(tmp, "overlay.json")
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err == nil {
		err = os.WriteFile(overlay, b, 0o600)
	}
	if err != nil {
		return unbuilt, err.Error()
	}
	binary := filepath.Join(tmp, "tests")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", binary, tested)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return unbuilt, firstLine(out, err)
	}
	test := exec.CommandContext(ctx, binary, "-test.failfast", "-test.v", "-test.timeout=2m", "-test.run=^("+strings.Join(r.tests, "|")+")$")
	test.Dir = filepath.Join(root, tested)
	out, err := test.CombinedOutput()
	switch exit := new(exec.ExitError); {
	case err == nil && !bytes.Contains(out, []byte("--- PASS")):
		return untested, strings.Join(r.tests, ", ")
	case err == nil:
		return survived, "by " + strings.Join(r.tests, ", ")
	case !errors.As(err, &exit) || exit.ExitCode() < 1:
		return broken, err.Error()
	}
	return found, complaint(out)
}

var plus = regexp.MustCompile(`(?m)^\+\+\+ b/(\S+)`)

// plant copies the files that a patch changes into tmp and patches them there. It returns which stands for which.
func plant(ctx context.Context, root, patch, tmp string) (map[string]string, error) {
	b, err := os.ReadFile(patch)
	if err != nil {
		return nil, err
	}
	replace := map[string]string{}
	for _, m := range plus.FindAllSubmatch(b, -1) {
		from, to := filepath.Join(root, string(m[1])), filepath.Join(tmp, string(m[1]))
		if from, err = filepath.Abs(from); err != nil {
			return nil, err
		}
		source, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(to, source, 0o600); err != nil {
			return nil, err
		}
		replace[from] = to
	}
	if len(replace) == 0 {
		return nil, errors.New("names no file")
	}
	apply := exec.CommandContext(ctx, "git", "apply", "--unsafe-paths", "-")
	apply.Dir, apply.Stdin = tmp, bytes.NewReader(b)
	// Not the repository that the temporary directory may be in.
	apply.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(tmp))
	if out, err := apply.CombinedOutput(); err != nil {
		return nil, errors.New(firstLine(out, err))
	}
	return replace, nil
}

// hideOthers takes the test files that are not of rows out of the build: they bring a network stack, which takes longer to
// link than all the rest.
func hideOthers(root string, replace map[string]string) {
	tests, _ := filepath.Glob(filepath.Join(root, tested, "*_test.go"))
	for _, f := range tests {
		if abs, err := filepath.Abs(f); err == nil && !strings.HasPrefix(filepath.Base(f), "row_") {
			replace[abs] = ""
		}
	}
}

func firstLine(out []byte, err error) string {
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return fmt.Sprint(err)
}

var said = regexp.MustCompile(`(?m)^ +\w+_test\.go:\d+: (.*)|^panic: (.*)`)

// complaint is what a failing test said first.
func complaint(out []byte) string {
	m := said.FindSubmatch(out)
	if m == nil {
		return ""
	}
	line := string(m[1]) + string(m[2])
	if len(line) > 100 {
		line = line[:100]
	}
	return line
}
