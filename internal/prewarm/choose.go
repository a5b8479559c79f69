package prewarm

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// replaceAfter is how long one of "so many hosts" may be away before another takes
// its place.
const replaceAfter = time.Minute

// enlist adds the hosts that an order is for and that are there. The lock is held.
func (x *order) enlist(there []p2p.Neighbour, now time.Time) (changed bool) {
	t := x.Target
	if t.Hosts > 0 {
		return x.enlistSome(there, now)
	}
	for _, nb := range there {
		id := nb.ID.String()
		if x.host(id) == nil && (t.All || slices.Contains(t.Zones, nb.Zone) || slices.Contains(t.Peers, id)) {
			x.add(nb)
			changed = true
		}
	}
	for _, id := range t.Peers { // those away are shown, too
		if x.host(id) == nil {
			x.Hosts = append(x.Hosts, Host{Peer: id, State: Waiting})
			changed = true
		}
	}
	return changed
}

// enlistSome fills up to Target.Hosts, by turns of the zones. Which hosts of a zone
// come first depends on them and the images only, so that the same are chosen when
// an order is given again.
func (x *order) enlistSome(there []p2p.Neighbour, now time.Time) (changed bool) {
	byZone := map[string][]p2p.Neighbour{}
	for _, nb := range there {
		if x.host(nb.ID.String()) == nil && !x.released[nb.ID.String()] && (len(x.Target.Zones) == 0 || slices.Contains(x.Target.Zones, nb.Zone)) {
			byZone[nb.Zone] = append(byZone[nb.Zone], nb)
		}
	}
	free := 0
	for _, list := range byZone {
		slices.SortFunc(list, func(a, b p2p.Neighbour) int {
			return cmp.Or(cmp.Compare(x.rank(string(b.ID)), x.rank(string(a.ID))), strings.Compare(string(a.ID), string(b.ID)))
		})
		free += len(list)
	}
	if free > 0 { // there is somebody to replace them
		n := len(x.Hosts)
		x.Hosts = slices.DeleteFunc(x.Hosts, func(h Host) bool {
			gone := free > 0 && (h.State == Refused || h.State == Waiting && now.Sub(x.heard(h)) > replaceAfter)
			if gone {
				free--
				x.release(h.Peer)
			}
			return gone
		})
		changed = len(x.Hosts) < n
	}
	perZone := map[string]int{}
	for _, h := range x.Hosts {
		perZone[h.Zone]++
	}
	for len(x.Hosts) < x.Target.Hosts {
		best, found := "", false
		for z, list := range byZone {
			if len(list) > 0 && (!found || perZone[z] < perZone[best] || perZone[z] == perZone[best] && x.rank(z) > x.rank(best)) {
				best, found = z, true
			}
		}
		if !found {
			break
		}
		x.add(byZone[best][0])
		byZone[best] = byZone[best][1:]
		perZone[best]++
		changed = true
	}
	return changed
}

func (x *order) heard(h Host) time.Time {
	if h.Seen.IsZero() {
		return x.Created
	}
	return h.Seen
}

func (x *order) release(id string) {
	if x.released == nil {
		x.released = map[string]bool{}
	}
	x.released[id] = true
}

// rank is a host's, or a zone's, place among others for these images.
func (x *order) rank(name string) uint64 {
	h := sha256.New()
	for _, im := range x.Images {
		h.Write([]byte(im.Repository + "\n"))
	}
	h.Write([]byte(name))
	return binary.BigEndian.Uint64(h.Sum(nil))
}

func (x *order) add(nb p2p.Neighbour) {
	address, _, _ := strings.Cut(nb.PiecesAddr, " ")
	if i := strings.LastIndexByte(address, ':'); i >= 0 {
		address = strings.Trim(address[:i], "[]")
	}
	x.Hosts = append(x.Hosts, Host{Peer: nb.ID.String(), Zone: nb.Zone, Address: address, State: Waiting})
}

func (x *order) host(id string) *Host {
	for i := range x.Hosts {
		if x.Hosts[i].Peer == id {
			return &x.Hosts[i]
		}
	}
	return nil
}
