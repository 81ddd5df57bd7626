package ocf

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"ringfence/internal/cluster"
)

// Bounds of the meta-data action.
const (
	metaDataTimeout    = 30 * time.Second
	metaDataLimitBytes = 1 << 20
	valueLimitBytes    = 32 << 10 // of one parameter
)

// metaData is what Check needs of an agent's description of itself.
type metaData struct {
	XMLName    xml.Name        `xml:"resource-agent"`
	Parameters []metaParameter `xml:"parameters>parameter"`
}

type metaParameter struct {
	Name     string `xml:"name,attr"`
	Required string `xml:"required,attr"`
	Content  struct {
		Default *string `xml:"default,attr"`
	} `xml:"content"`
}

// required: agents write 1, true or yes, and some call a parameter required
// that has a default.
func (p metaParameter) required() bool {
	switch strings.ToLower(p.Required) {
	case "1", "true", "yes":
		return p.Content.Default == nil || *p.Content.Default == ""
	}
	return false
}

func parseMetaData(text []byte) (metaData, error) {
	var m metaData
	decoder := xml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&m); err != nil {
		return metaData{}, fmt.Errorf("meta-data is not what OCF asks for: %w", err)
	}
	return m, nil
}

// cached is an answer that holds as long as the script is the same.
type cached struct {
	modified time.Time
	size     int64
	data     metaData
}

// metaDataOf asks the agent once for every version of its script.
func (a *Agent) metaDataOf(ctx context.Context, name agentName, path string) (metaData, error) {
	info, err := os.Stat(path)
	if err != nil {
		return metaData{}, fmt.Errorf("read agent: %w", err)
	}
	a.mu.Lock()
	known, ok := a.cache[path]
	a.mu.Unlock()
	if ok && known.modified.Equal(info.ModTime()) && known.size == info.Size() {
		return known.data, nil
	}
	data, err := a.askMetaData(ctx, name, path)
	if err != nil {
		return metaData{}, err
	}
	a.mu.Lock()
	a.cache[path] = cached{modified: info.ModTime(), size: info.Size(), data: data}
	a.mu.Unlock()
	return data, nil
}

func (a *Agent) askMetaData(ctx context.Context, name agentName, path string) (metaData, error) {
	ctx, cancel := context.WithTimeout(ctx, metaDataTimeout)
	defer cancel()
	env := a.baseEnv(name, "ringfence-meta-data")
	result, err := run(ctx, path, "meta-data", env, metaDataLimitBytes)
	if err != nil {
		return metaData{}, fmt.Errorf("meta-data of %s: %w", name, err)
	}
	if result.code != codeSuccess {
		return metaData{}, result.exitError(name, "meta-data")
	}
	if result.cut {
		return metaData{}, fmt.Errorf("meta-data of %s has more than %d bytes", name, metaDataLimitBytes)
	}
	data, err := parseMetaData(result.stdout)
	if err != nil {
		return metaData{}, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// checkParams compares parameters with the agent's description.
func checkParams(r cluster.Resource, m metaData) error {
	known := make(map[string]bool, len(m.Parameters))
	var errs []error
	for _, p := range m.Parameters {
		known[p.Name] = true
		if p.required() && r.Params[p.Name] == "" {
			errs = append(errs, fmt.Errorf("params.%s = %q: required by %s", p.Name, r.Params[p.Name], r.Agent))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.Params)) {
		value := r.Params[key]
		switch {
		case !known[key]:
			errs = append(errs, fmt.Errorf("params.%s = %.60q: %s has no such parameter; allowed are %s", key, value, r.Agent, strings.Join(slices.Sorted(maps.Keys(known)), ", ")))
		case len(value) > valueLimitBytes:
			errs = append(errs, fmt.Errorf("params.%s = %.60q…: has %d bytes, at most %d are allowed", key, value, len(value), valueLimitBytes))
		case strings.ContainsRune(value, 0):
			errs = append(errs, fmt.Errorf("params.%s = %.60q: a zero byte is not allowed", key, value))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("resource %q: %w", r.Name, err)
	}
	return nil
}
