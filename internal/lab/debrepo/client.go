// SPDX-License-Identifier: Apache-2.0

package debrepo

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
)

// Client reads a repository as apt does: Release, then the index that it vouches for, then a package that the index
// vouches for. It does not check signatures ("trusted=yes").
type Client struct {
	// HTTP makes the requests; its Timeout bounds each.
	HTTP *http.Client
	// Base is the repository's URL, Arch the architecture that is asked for.
	Base, Arch string

	index []byte
}

// Update fetches the index, what "apt-get update" does.
func (c *Client) Update(ctx context.Context) error {
	release, err := c.get(ctx, path.Join("dists", suite, "Release"))
	if err != nil {
		return err
	}
	name := packagesPath(c.Arch) + ".gz"
	want := ""
	for line := range strings.Lines(string(release)) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == name && len(f[0]) == 2*sha256.Size {
			want = f[0]
		}
	}
	if want == "" {
		return fmt.Errorf("%s: Release does not name %s", c.Base, name)
	}
	zipped, err := c.verified(ctx, path.Join("dists", suite, name), want)
	if err != nil {
		return err
	}
	z, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c.index, err = io.ReadAll(z)
	return err
}

// Download fetches a package of the index, what "apt-get download" does.
func (c *Client) Download(ctx context.Context, pkg string) ([]byte, error) {
	for entry := range strings.SplitSeq(string(c.index), "\n\n") {
		if field(entry, "Package") == pkg {
			return c.verified(ctx, field(entry, "Filename"), field(entry, "SHA256"))
		}
	}
	return nil, fmt.Errorf("unable to locate package %s", pkg)
}

func field(entry, name string) string {
	for line := range strings.Lines(entry) {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (c *Client) verified(ctx context.Context, name, want string) ([]byte, error) {
	b, err := c.get(ctx, name)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != want {
		return nil, fmt.Errorf("%s: hash sum mismatch", name)
	}
	return b, nil
}

func (c *Client) get(ctx context.Context, name string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Base+"/"+name, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", name, resp.Status)
	}
	return io.ReadAll(resp.Body)
}
