package scenario

// All are the scenarios in the order of the acceptance table.
func All() []Scenario {
	return []Scenario{
		herdHTTP,
		herdContainerd,
		prewarmed,
		peersKilled,
		peersFrozen,
		seederKilledEarly,
		seederKilledLate,
		seederFrozen,
		allGone,
		lyingPeer,
		upstreamCorrupt,
		upstreamCuts,
		diskFull,
		messages,
		oneFetch,
		coldRange,
		unknownDigest,
	}
}
