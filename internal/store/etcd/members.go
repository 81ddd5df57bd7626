package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"

	"ringfence/internal/store"
)

// Member is one member of the store's cluster.
type Member struct {
	ID      uint64
	Name    string // empty until it has started for the first time
	PeerURL string
	Learner bool // holds the data, has no vote yet
}

// Members returns the members as this voter knows them, sorted by peer URL.
// Without quorum that may be out of date.
func (s *Server) Members(ctx context.Context) ([]Member, error) {
	if err := s.usable(ctx); err != nil {
		return nil, fmt.Errorf("list voters: %w", err)
	}
	return s.members(), nil
}

// Votes reports whether a voter of that name has its vote, as far as this one
// knows; one that has just joined has not.
func (s *Server) Votes(name string) bool {
	return slices.ContainsFunc(s.members(), func(m Member) bool { return m.Name == name && !m.Learner })
}

func (s *Server) members() []Member {
	var all []Member
	for _, m := range s.server.Cluster().Members() {
		all = append(all, Member{ID: uint64(m.ID), Name: m.Name, PeerURL: urlOf(m), Learner: m.IsLearner})
	}
	slices.SortFunc(all, func(a, b Member) int { return strings.Compare(a.PeerURL, b.PeerURL) })
	return all
}

// urlOf returns where a member is reached; this package gives it one URL.
func urlOf(m *membership.Member) string {
	if len(m.PeerURLs) == 0 {
		return ""
	}
	return m.PeerURLs[0]
}

// AddVoter announces a voter that will join: its Start needs New false and the
// initialCluster returned here, and after it PromoteWhenReady(id) gives it its
// vote. It is a learner until then, because a second voter that is announced
// but not there would leave the first without quorum. Called again for the same
// peer URL before the newcomer's first start, it returns the same. Learners are
// let in one at a time: while another is being promoted, and until etcd trusts
// its links, it waits, at most MembershipTimeout.
func (s *Server) AddVoter(ctx context.Context, name, peerURL string) (id uint64, initialCluster map[string]string, err error) {
	if err := checkMember(name, peerURL); err != nil {
		return 0, nil, fmt.Errorf("add voter: %w", err)
	}
	found, err := s.announced(name, peerURL)
	if err != nil {
		return 0, nil, fmt.Errorf("add voter %s: %w", name, err)
	}
	if found == nil {
		urls, err := types.NewURLs([]string{peerURL})
		if err != nil {
			return 0, nil, fmt.Errorf("add voter %s: %w", name, err)
		}
		now := time.Now()
		found = membership.NewMemberAsLearner("", urls, "", &now)
		err = s.retry(ctx, func(ctx context.Context) error {
			_, err := s.server.AddMember(ctx, *found)
			if errors.Is(err, membership.ErrIDExists) {
				return nil // an attempt whose answer was lost
			}
			return err
		})
		if err != nil {
			return 0, nil, fmt.Errorf("add voter %s at %s: %w", name, peerURL, err)
		}
	}
	voters := map[string]string{name: peerURL}
	for _, m := range s.members() {
		if m.Name != "" {
			voters[m.Name] = m.PeerURL
		}
	}
	return uint64(found.ID), voters, nil
}

// announced returns the member at peerURL if it is one that has not started.
func (s *Server) announced(name, peerURL string) (*membership.Member, error) {
	for _, m := range s.server.Cluster().Members() {
		at := slices.Contains(m.PeerURLs, peerURL)
		switch {
		case m.Name == name:
			return nil, fmt.Errorf("a voter of that name exists at %s; remove it first", urlOf(m))
		case at && m.Name != "":
			return nil, fmt.Errorf("%s is the peer URL of voter %s", peerURL, m.Name)
		case at:
			return m, nil
		}
	}
	return nil, nil
}

// PromoteWhenReady gives a learner its vote once it has caught up. It returns
// nil also when the member votes already. It waits at most MembershipTimeout.
func (s *Server) PromoteWhenReady(ctx context.Context, id uint64) error {
	if m := s.server.Cluster().Member(types.ID(id)); m != nil && !m.IsLearner {
		return nil // asking etcd for it would log a warning
	}
	err := s.retry(ctx, func(ctx context.Context) error {
		_, err := s.server.PromoteMember(ctx, id)
		return err
	})
	if errors.Is(err, membership.ErrMemberNotLearner) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("promote voter %x: %w", id, err)
	}
	return nil
}

// RemoveVoter takes a member out for good; its data directory is void then. It
// is refused while that would cost the others their quorum.
func (s *Server) RemoveVoter(ctx context.Context, id uint64) error {
	err := s.retry(ctx, func(ctx context.Context) error {
		_, err := s.server.RemoveMember(ctx, id)
		return err
	})
	if errors.Is(err, membership.ErrIDRemoved) || errors.Is(err, membership.ErrIDNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove voter %x: %w", id, err)
	}
	return nil
}

// retry repeats a membership change while etcd says "not yet". A change whose
// answer was lost is repeated too; the callers take "done already" for success.
func (s *Server) retry(ctx context.Context, change func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, MembershipTimeout)
	defer cancel()
	for {
		if err := s.usable(ctx); err != nil {
			return err
		}
		err := attempt(ctx, change)
		if err == nil || !notYet(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(store.ErrUnavailable, err)
		case <-s.ctx.Done():
			return store.ErrClosed
		case <-time.After(retryPause):
		}
	}
}

// attempt bounds one try: a proposal that got lost with a raft leader is never
// answered, and etcd waits for it as long as it may.
func attempt(ctx context.Context, change func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, OpTimeout)
	defer cancel()
	return change(ctx)
}

func notYet(err error) bool {
	for _, passing := range []error{
		etcderrors.ErrUnhealthy, etcderrors.ErrLearnerNotReady, etcderrors.ErrNotEnoughStartedMembers,
		etcderrors.ErrNoLeader, etcderrors.ErrLeaderChanged, etcderrors.ErrTimeout,
		etcderrors.ErrTimeoutDueToLeaderFail, etcderrors.ErrTimeoutDueToConnectionLost,
		membership.ErrTooManyLearners, context.DeadlineExceeded,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// Leader returns the raft leader as this voter knows it; ok is false when it
// knows none.
func (s *Server) Leader() (name string, isMe, ok bool) {
	lead := s.server.Leader()
	if lead == 0 {
		return "", false, false
	}
	if m := s.server.Cluster().Member(lead); m != nil {
		name = m.Name
	}
	return name, s.isLeader(), true
}

func (s *Server) isLeader() bool { return s.server.Leader() == s.server.MemberID() }

// MoveLeader hands the raft lead to a voter, from wherever it is, and waits
// until that one has it. It may be tried again at any time.
func (s *Server) MoveLeader(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, OpTimeout)
	defer cancel()
	if err := s.usable(ctx); err != nil {
		return fmt.Errorf("move raft lead to %s: %w", name, err)
	}
	for _, m := range s.members() {
		if m.Name != name {
			continue
		}
		if err := s.server.MoveLeader(ctx, s.server.Lead(), m.ID); err != nil {
			return fmt.Errorf("move raft lead to %s: %w", name, err)
		}
		return nil
	}
	return fmt.Errorf("move raft lead to %s: no voter of that name", name)
}
