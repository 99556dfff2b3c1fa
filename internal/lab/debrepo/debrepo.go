// SPDX-License-Identifier: Apache-2.0

// Package debrepo makes a small Debian repository in memory, serves it over HTTP, and reads such a repository the way
// apt does, for machines that have no apt.
package debrepo

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5" // named by Debian policy in control files, not for security
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// Where things are in the repository, below its base URL. A sources.list line for it reads
// "deb [trusted=yes] BASE stable main".
const (
	suite     = "stable"
	component = "main"
)

// Package is one binary package.
type Package struct {
	// Name, Version and Description are the fields of that name.
	Name, Version, Description string
	// Files are what it installs, by absolute path.
	Files map[string][]byte
}

func (p *Package) control() string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Tidegate lab <lab@example.com>\n"+
		"Section: misc\nPriority: optional\nDescription: %s\n", p.Name, p.Version, p.Description)
}

func (p *Package) filename() string {
	return path.Join("pool", component, p.Name, p.Name+"_"+p.Version+"_all.deb")
}

// Deb is the package as a .deb file: an ar archive of the format version and two tarballs (deb(5)).
func (p *Package) Deb(built time.Time) []byte {
	var sums strings.Builder
	data := map[string][]byte{}
	for name, b := range p.Files {
		rel := strings.TrimPrefix(name, "/")
		data["./"+rel] = b
	}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(data[name]), strings.TrimPrefix(name, "./"))
	}
	control := map[string][]byte{"./control": []byte(p.control()), "./md5sums": []byte(sums.String())}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", tarball(control, built)}, {"data.tar.gz", tarball(data, built)}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, built.Unix(), 0, 0, 0o100644, len(m.data))
		b.Write(m.data)
		if len(m.data)%2 != 0 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// tarball packs files, each after the directories that lead to it. Writes to a buffer do not fail.
func tarball(files map[string][]byte, built time.Time) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	made := map[string]bool{".": true}
	var mkdir func(dir string)
	mkdir = func(dir string) {
		if made[dir] {
			return
		}
		made[dir] = true
		mkdir(path.Dir(dir))
		_ = t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./" + dir + "/", Mode: 0o755, ModTime: built})
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mkdir(path.Dir(name))
		_ = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: built})
		_, _ = t.Write(files[name])
	}
	_ = t.Close()
	_ = z.Close()
	return b.Bytes()
}

// Repo is a repository: an immutable set of files, and an http.Handler that serves them below the root.
type Repo struct {
	files map[string][]byte
	built time.Time
}

// New makes a repository of the packages for one architecture, such as "amd64".
func New(arch string, built time.Time, pkgs ...Package) *Repo {
	r := &Repo{files: map[string][]byte{}, built: built.Truncate(time.Second)}
	var index bytes.Buffer
	for i := range pkgs {
		p := &pkgs[i]
		deb := p.Deb(r.built)
		r.files[p.filename()] = deb
		fmt.Fprintf(&index, "%sFilename: %s\nSize: %d\nMD5sum: %x\nSHA256: %x\n\n", p.control(), p.filename(), len(deb),
			md5.Sum(deb), sha256.Sum256(deb))
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(index.Bytes())
	_ = z.Close()

	var release strings.Builder
	fmt.Fprintf(&release, "Origin: Tidegate\nLabel: Tidegate lab\nSuite: %s\nCodename: %s\nDate: %s\nArchitectures: %s\n"+
		"Components: %s\nSHA256:\n", suite, suite, r.built.UTC().Format(time.RFC1123), arch, component)
	for _, f := range []struct {
		name string
		data []byte
	}{{packagesPath(arch), index.Bytes()}, {packagesPath(arch) + ".gz", zipped.Bytes()}} {
		fmt.Fprintf(&release, " %x %d %s\n", sha256.Sum256(f.data), len(f.data), f.name)
		r.files[path.Join("dists", suite, f.name)] = f.data
	}
	r.files[path.Join("dists", suite, "Release")] = []byte(release.String())
	return r
}

func packagesPath(arch string) string { return path.Join(component, "binary-"+arch, "Packages") }

// ServeHTTP serves the files.
func (r *Repo) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name := strings.TrimPrefix(path.Clean(req.URL.Path), "/")
	data, ok := r.files[name]
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, req, name, r.built, bytes.NewReader(data))
}
