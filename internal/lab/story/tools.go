// SPDX-License-Identifier: Apache-2.0

package story

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// programs are what the story would like to run. What is not installed, or cannot run in the world, is done in Go.
var programs = []string{"apt-get", "curl", "ssh", "sshd", "traceroute", "tracepath"}

// searchPath is where they are looked for: sshd is not on everybody's PATH.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// inGo is what a Tools entry says when Go does it.
const inGo = "Go"

// Tools says for each program what does its work: the path of the real one, or "Go".
type Tools map[string]string

// FindTools looks for the programs; with onlyGo none is used.
func FindTools(onlyGo bool) Tools {
	t := Tools{}
	for _, p := range programs {
		t[p] = inGo
		for dir := range strings.SplitSeq(searchPath, ":") {
			file := filepath.Join(dir, p)
			if st, err := os.Stat(file); err == nil && !onlyGo && st.Mode()&0o111 != 0 {
				t[p] = file
				break
			}
		}
	}
	return t
}

// real is the program, if there is one and h can run it.
func (t Tools) real(h Host, program string) (Machine, string, bool) {
	m, ok := h.(Machine)
	if file := t[program]; ok && file != "" && file != inGo {
		return m, file, true
	}
	return nil, "", false
}

// output runs a program to its end and returns what it printed, on both outputs.
func output(ctx context.Context, m Machine, program string, args ...string) (string, error) {
	out, err := cmdOutput(m, m.Command(ctx, program, args...))
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", filepath.Base(program), err, lastLine(out))
	}
	return out, err
}

func cmdOutput(m Machine, cmd *exec.Cmd) (string, error) {
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err := m.Run(cmd)
	return b.String(), err
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// How long an answer is waited for: where one is expected, on however busy a machine, and where none is.
const (
	patience   = 5 * time.Second
	impatience = time.Second
)

// fetch loads a page from h: curl, or Go.
func (t Tools) fetch(ctx context.Context, h Host, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if m, curl, ok := t.real(h, "curl"); ok {
		out, err := output(ctx, m, curl, "--silent", "--show-error", "--fail", "--max-time", fmt.Sprint(patience.Seconds()), url)
		return strings.TrimSpace(out), err
	}
	return get(ctx, httpClient(h), url)
}

// httpClient is an HTTP client in h.
func httpClient(h Host) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: h.Dial}, Timeout: patience}
}

// get loads a page with a client.
func get(ctx context.Context, c *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	return read(c.Do(req))
}

// read reads a response to its end.
func read(resp *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return strings.TrimSpace(string(b)), err
}
