package nodeapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"ringfence/internal/backup"
	"ringfence/internal/cluster"
)

// backupTimeout bounds making and sending a backup of the largest size.
const backupTimeout = 2 * time.Minute

// getBackup sends every record of the store as one file: read through the
// store, not from the mirror, so that nothing that was committed is missing.
func (s *Server) getBackup(w http.ResponseWriter, r *http.Request) {
	data, err := s.makeBackup(r.Context())
	if err == nil {
		err = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(backupTimeout))
	}
	if err != nil {
		e := asError(err)
		writeJSON(w, e.status(), e)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data) // the caller has gone; it finds the file cut short
}

func (s *Server) makeBackup(ctx context.Context) ([]byte, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	kvs, rev, err := s.Store.Load(ctx, cluster.Prefix)
	if err != nil {
		return nil, err
	}
	b, err := backup.New(kvs, rev, s.Self, time.Now())
	if err != nil {
		return nil, err
	}
	return b.Encode()
}

// Backup returns a backup of the cluster, checked, and the bytes of its file.
func (c *Client) Backup(ctx context.Context) (*backup.Backup, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, backupTimeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, "/v1/backup", nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, backup.LimitBytes+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read the backup from the node: %w", err)
	}
	b, err := backup.Decode(data)
	if err != nil {
		return nil, nil, fmt.Errorf("the node's answer: %w", err)
	}
	return b, data, nil
}
