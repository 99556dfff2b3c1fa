// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"

	"go.yaml.in/yaml/v3"
)

// YAML is the whole configuration, defaults included, as a file that Parse reads.
func (c *Config) YAML() ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(c); err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
