package scheduler

// duty splits pieces among hosts that would otherwise all take the same ones
// from a scarce source: the upstream while no seeder is there, or the link
// between zones. Each host works out alone, by rendezvous hashing over the
// keys of itself and of the rivals it knows, which pieces are its own to get;
// the others wait a little for it to announce them.
type duty struct {
	group  int // pieces that go together
	self   uint64
	rivals []uint64
	top    []uint64 // highest score per group
	mine   []bool   // per group
}

// newDuty returns the duty of a host alone: everything. A self of 0 means
// that keys are not known: then too.
func newDuty(n, group int, self uint64) *duty {
	groups := (n + group - 1) / group
	d := &duty{group: group, self: self, top: make([]uint64, groups), mine: make([]bool, groups)}
	for k := range d.mine {
		d.top[k], d.mine[k] = score(self, k), true
	}
	return d
}

func (d *duty) has(i int) bool { return d.mine[i/d.group] }

// shared tells whether there is anybody to share with.
func (d *duty) shared() bool { return len(d.rivals) > 0 }

// sharers counts who shares it, oneself included.
func (d *duty) sharers() int { return 1 + len(d.rivals) }

func (d *duty) add(key uint64) {
	if d.self == 0 || key == 0 {
		return
	}
	for _, r := range d.rivals {
		if r == key {
			return
		}
	}
	d.rivals = append(d.rivals, key)
	for k := range d.top {
		if s := score(key, k); s > d.top[k] {
			d.top[k], d.mine[k] = s, false
		}
	}
}

func (d *duty) remove(key uint64) {
	at := -1
	for k, r := range d.rivals {
		if r == key {
			at = k
		}
	}
	if at < 0 {
		return
	}
	d.rivals = append(d.rivals[:at], d.rivals[at+1:]...)
	for k := range d.top {
		if score(key, k) != d.top[k] {
			continue
		}
		d.top[k], d.mine[k] = score(d.self, k), true
		for _, r := range d.rivals {
			if s := score(r, k); s > d.top[k] {
				d.top[k], d.mine[k] = s, false
			}
		}
	}
}

// score is splitmix64's finalizer over the key and the group.
func score(key uint64, group int) uint64 {
	x := key + (uint64(group)+1)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
