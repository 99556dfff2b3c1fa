// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"os"
	"strings"
	"testing"
)

// TestReadme: the program in the README is the example of this package, which compiles and is run.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, program, ok := strings.Cut(string(readme), "func main() {\n")
	if !ok {
		t.Fatal("no program in the README")
	}
	program, _, _ = strings.Cut(program, "\n}\n```")
	_, body, _ := strings.Cut(string(example), "func Example() {\n")
	body, _, _ = strings.Cut(body, "\n\t// Output:")
	for i, line := range strings.Split(program, "\n") {
		line, _, _ = strings.Cut(line, " // to outside")
		if !strings.Contains(body, line) {
			t.Errorf("line %d of the program in the README is not in the example: %s", i+1, line)
		}
	}
}
