// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/lab/debrepo"
)

// aptArch is the architecture of the throwaway apt, whatever the machine's is.
const aptArch = "amd64"

// aPackage is what the mirror offers.
var aPackage = debrepo.Package{
	Name: "tide-hello", Version: "1.0", Description: "a package made for the story",
	Files: map[string][]byte{"/usr/share/tide-hello/hello": []byte(strings.Repeat("Hello from the mirror.\n", 4096))},
}

// apt is a package manager on one host, with a root and state of its own.
type apt struct {
	tools  Tools
	host   Host
	client *debrepo.Client // what stands in for apt-get
}

// newAPT sets one up; timeout, in whole seconds, is how long it waits for a connection and for an answer.
func newAPT(t Tools, h Host, timeout time.Duration) (*apt, error) {
	a := &apt{tools: t, host: h}
	base := fmt.Sprintf("http://%s/debian", mirrorAddr)
	m, _, ok := t.real(h, "apt-get")
	if !ok {
		// A connection a request: after a change of address an old one must not be what answers.
		a.client = &debrepo.Client{Base: base, Arch: aptArch, HTTP: &http.Client{Timeout: timeout,
			Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}}
		return a, nil
	}
	// Named by APT_CONFIG, which is read before the machine's own configuration, and replaces it.
	root := aptDir
	conf := fmt.Sprintf(`Dir %q;
Dir::Etc %q;
Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
Dir::Log %q;
APT::Architecture %q;
APT::Architectures { %q; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::http::Timeout "%d";
Acquire::http::Proxy "false";
Acquire::Retries "0";
Acquire::Languages "none";
`, root, root+"/etc", root+"/state", root+"/state/status", root+"/cache", root+"/log", aptArch, aptArch, int(timeout.Seconds()))
	for name, text := range map[string]string{
		"apt.conf":                     conf,
		"etc/sources.list":             fmt.Sprintf("deb [trusted=yes] %s stable main\n", base),
		"etc/apt.conf.d/.keep":         "",
		"etc/preferences.d/.keep":      "",
		"etc/sources.list.d/.keep":     "",
		"etc/trusted.gpg.d/.keep":      "",
		"state/status":                 "",
		"state/lists/partial/.keep":    "",
		"cache/archives/partial/.keep": "",
		"log/.keep":                    "",
	} {
		if err := m.WriteFile(path.Join(root, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return a, nil
}

const aptDir = lab.Dir + "/apt"

// update is "apt-get update".
func (a *apt) update(ctx context.Context) error {
	if a.client != nil {
		return a.client.Update(ctx)
	}
	return a.run(ctx, "update")
}

// download is "apt-get download": the package's bytes, as the repository vouches for them.
func (a *apt) download(ctx context.Context) ([]byte, error) {
	if a.client != nil {
		return a.client.Download(ctx, aPackage.Name)
	}
	if err := a.run(ctx, "download", aPackage.Name); err != nil {
		return nil, err
	}
	return a.host.(Machine).ReadFile(path.Join(lab.Dir, fmt.Sprintf("%s_%s_all.deb", aPackage.Name, aPackage.Version)))
}

func (a *apt) run(ctx context.Context, args ...string) error {
	m, aptGet, _ := a.tools.real(a.host, "apt-get")
	cmd := m.Command(ctx, aptGet, append([]string{"--quiet"}, args...)...)
	cmd.Env = append(cmd.Env, "APT_CONFIG="+aptDir+"/apt.conf")
	out, err := cmdOutput(m, cmd)
	if err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, firstWith(out, "E: ", "W: "))
	}
	return nil
}

// firstWith is the first line with one of the prefixes.
func firstWith(out string, prefixes ...string) string {
	for _, p := range prefixes {
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, p) {
				return strings.TrimSpace(line)
			}
		}
	}
	return lastLine(out)
}
