package monitoring

import "strings"

// quantiles of a histogram, one series each.
func quantiles(metric, matchers, legend string) []series {
	by := "le"
	if legend != "" {
		by = strings.Trim(legend, "{}") + ", le"
		legend = " " + legend
	}
	var out []series
	for _, q := range []string{"0.5", "0.99"} {
		out = append(out, series{"histogram_quantile(" + q + ", sum by (" + by + ") (rate(" + metric + "_bucket" + matchers + "[$__rate_interval])))",
			"p" + strings.TrimPrefix(q, "0.") + legend})
	}
	out[0].legend = "p50" + legend
	return out
}

func sumRate(by, metric, matchers string) string {
	return "sum by (" + by + ") (rate(" + metric + matchers + "[$__rate_interval]))"
}

// node is what both daemons show alike.
func node(d string) []row {
	const one = `{instance=~"$instance"}`
	with := func(matcher string) string { return `{instance=~"$instance", ` + matcher + `}` }
	return []row{
		{"Requests", []panel{
			{title: "Requests by answer", unit: "reqps", stack: true, series: []series{{sumRate("code", d+"_http_requests_total", one), "{{code}}"}}},
			{title: "Requests under way", series: []series{{"sum by (kind) (" + d + "_http_requests_in_flight" + one + ")", "{{kind}}"}}},
			{title: "Time of requests for manifests", unit: "s", series: quantiles(d+"_http_request_duration_seconds", with(`kind="manifest"`), "")},
			{title: "Time to the first byte of blobs", unit: "s", series: quantiles(d+"_http_time_to_first_byte_seconds", with(`kind="blob"`), "")},
			{title: "Bytes to clients", unit: "Bps", series: []series{{sumRate("instance", d+"_http_response_bytes_total", one), "{{instance}}"}}},
			{title: "Answers cut short", about: "client: it left, which is normal for chunked pulls. source: content could not be had.", series: []series{{"sum by (by) (increase(" + d + "_http_bodies_cut_total" + one + "[$__rate_interval]))", "{{by}}"}}},
		}},
		{"Swarm", []panel{
			{title: "Bytes received by source", unit: "Bps", stack: true, series: []series{{sumRate("source", d+"_received_bytes_total", one), "{{source}}"}}},
			{title: "Bytes given to peers", unit: "Bps", series: []series{{sumRate("instance", d+"_given_bytes_total", one), "{{instance}}"}}},
			{title: "Downloads by result", series: []series{{"sum by (result) (increase(" + d + "_downloads_total" + one + "[$__rate_interval]))", "{{result}}"}}},
			{title: "Neighbours", series: []series{{d + "_p2p_neighbours" + one, "{{instance}}"}}},
			{title: "Swarms, and neighbours in them", series: []series{{"sum(" + d + "_swarms" + one + ")", "swarms"}, {"sum(" + d + "_swarm_members" + one + ")", "members"}}},
			{title: "Size of swarms when a download ends", series: quantiles(d+"_swarm_size", one, "")},
			{title: "Failed requests for pieces, by cause", series: []series{{"sum by (cause) (increase(" + d + "_piece_failures_total" + one + "[$__rate_interval]))", "{{cause}}"}}},
			{title: "Waits in queues", unit: "s", series: quantiles(d+"_queue_wait_seconds", one, "{{queue}}")},
			{title: "Bytes that came twice", unit: "Bps", series: []series{{sumRate("instance", d+"_duplicate_bytes_total", one), "{{instance}}"}}},
		}},
		{"DHT", []panel{
			{title: "Peers in the routing table", series: []series{{d + "_p2p_dht_peers" + one, "{{instance}}"}}},
			{title: "Look-ups by result", series: []series{{sumRate("result", d+"_p2p_dht_lookups_total", one), "{{result}}"}}},
			{title: "Time to the first provider", unit: "s", series: quantiles(d+"_p2p_dht_first_provider_seconds", one, "")},
			{title: "Provider records held", series: []series{{d + "_p2p_provider_records" + one, "{{instance}}"}}},
			{title: "Announcements", series: []series{{sumRate("decision", d+"_p2p_announcements_total", one), "{{decision}}"}}},
			{title: "Connections that failed", series: []series{{sumRate("instance", d+"_p2p_dial_failures_total", one), "{{instance}}"}}},
		}},
		{"Store", []panel{
			{title: "Content", unit: "bytes", series: []series{{d + "_store_used_bytes" + one, "{{instance}}"}, {d + "_store_quota_bytes" + one + " > 0", "quota {{instance}}"}}},
			{title: "Disk used", unit: "percentunit", series: []series{{`samara:disk_used:ratio` + one, "{{instance}}"}}},
			{title: "Evicted", unit: "Bps", series: []series{{sumRate("reason", d+"_store_evicted_bytes_total", one), "{{reason}}"}}},
			{title: "Blobs", series: []series{{"sum by (state) (" + d + "_store_blobs" + one + ")", "{{state}}"}}},
			{title: "Checked on disk", unit: "Bps", series: []series{{sumRate("instance", d+"_scrub_bytes_total", one), "{{instance}}"}}},
			{title: "Damaged blobs", series: []series{{d + "_store_damaged_blobs" + one, "{{instance}}"}}},
		}},
		{"Upstreams", []panel{
			{title: "Requests by result", unit: "reqps", series: []series{{sumRate("upstream, result", d+"_upstream_requests_total", one), "{{upstream}} {{result}}"}}},
			{title: "Bytes", unit: "Bps", series: []series{{sumRate("upstream", d+"_upstream_bytes_total", one), "{{upstream}}"}}},
			{title: "Not asked since they fail", series: []series{{"max by (upstream) (" + d + "_upstream_breaker_open" + one + ")", "{{upstream}}"}}},
		}},
		{"Process", []panel{
			{title: "Processor", unit: "percentunit", series: []series{{`rate(process_cpu_seconds_total{job="samara-` + d + `", instance=~"$instance"}[$__rate_interval])`, "{{instance}}"}}},
			{title: "Memory", unit: "bytes", series: []series{{`process_resident_memory_bytes{job="samara-` + d + `", instance=~"$instance"}`, "{{instance}}"}}},
			{title: "Open files", series: []series{{`process_open_fds{job="samara-` + d + `", instance=~"$instance"}`, "{{instance}}"}}},
		}},
	}
}

var boards = []board{
	{file: "fleet.json", title: "Samara: fleet", about: "Does it share? All hosts and seeders together.", rows: []row{
		{"Now", []panel{
			{title: "Hosts", stat: true, series: []series{{"count(peerd_build_info)", ""}}},
			{title: "Ready", stat: true, series: []series{{"sum(peerd_ready)", ""}}},
			{title: "Seeders ready", stat: true, series: []series{{"sum(seeder_ready)", ""}}},
			{title: "From peers", unit: "percentunit", stat: true, series: []series{{"samara:peer_share:ratio5m", ""}}},
			{title: "Isolated", stat: true, series: []series{{"count(peerd_p2p_neighbours == 0) or vector(0)", ""}}},
			{title: "Warnings", stat: true, series: []series{{"sum(peerd_warnings) + sum(seeder_warnings)", ""}}},
		}},
		{"Pulls", []panel{
			{title: "Where bytes come from", unit: "Bps", stack: true, series: []series{{"samara:received_bytes:rate5m", "{{source}}"}}},
			{title: "Time of pulls", about: "From the request for the manifest until all blobs that were missing had come.", unit: "s", series: quantiles("peerd_pull_duration_seconds", "", "")},
			{title: "Pulls by result", series: []series{{"sum by (result) (increase(peerd_pull_duration_seconds_count[$__rate_interval]))", "{{result}}"}}},
			{title: "Time to the first byte of blobs", unit: "s", series: quantiles("peerd_http_time_to_first_byte_seconds", `{kind="blob"}`, "")},
			{title: "Slowest hosts, p99", unit: "s", series: []series{{`topk(10, samara:request_seconds:p99_5m{daemon="peerd"})`, "{{instance}} {{kind}}"}}},
			{title: "Failed requests for pieces, by cause", series: []series{{"sum by (cause) (increase(peerd_piece_failures_total[$__rate_interval]))", "{{cause}}"}}},
		}},
		{"Seeders and upstreams", []panel{
			{title: "Answered from the cache", unit: "percentunit", series: []series{{"samara:cache_hit_ratio:rate1h", "{{upstream}}"}}},
			{title: "Sent by seeders", unit: "Bps", series: []series{{sumRate("instance", "seeder_given_bytes_total", ""), "{{instance}}"}}},
			{title: "Copies of a blob that seeders send", about: "1 is the best there is.", series: quantiles("seeder_given_copies", "", "")},
			{title: "Upstream bytes, by hosts past the seeder", unit: "Bps", series: []series{{sumRate("upstream", "peerd_upstream_bytes_total", ""), "{{upstream}}"}}},
			{title: "Upstream requests by result", unit: "reqps", series: []series{{sumRate("result", "seeder_upstream_requests_total", ""), "{{result}}"}}},
			{title: "Rate limit left", series: []series{{"min by (upstream) (seeder_upstream_rate_limit_remaining)", "{{upstream}}"}}},
		}},
		{"What is wrong", []panel{
			{title: "Warnings by code", series: []series{{"sum by (code) (peerd_warnings) > 0", "peerd {{code}}"}, {"sum by (code) (seeder_warnings) > 0", "seeder {{code}}"}}},
			{title: "Fullest disks", unit: "percentunit", series: []series{{"topk(10, samara:disk_used:ratio)", "{{instance}}"}}},
			{title: "Minutes not available in 24 hours", series: []series{{"topk(10, samara:unavailable:minutes24h)", "{{instance}}"}}},
			{title: "Time since a client asked", unit: "s", series: []series{{"topk(10, time() - (peerd_client_last_request_timestamp_seconds > 0))", "{{instance}}"}}},
			{title: "Fewest neighbours", series: []series{{"bottomk(10, peerd_p2p_neighbours)", "{{instance}}"}}},
			{title: "Versions", series: []series{{"count by (version) (peerd_build_info)", "peerd {{version}}"}, {"count by (version) (seeder_build_info)", "seeder {{version}}"}}},
		}},
	}},
	{file: "node.json", title: "Samara: node", about: "One peerd, or several.", variable: "label_values(peerd_build_info, instance)", rows: node("peerd")},
	{file: "seeder.json", title: "Samara: seeder", about: "One seeder, or several.", variable: "label_values(seeder_build_info, instance)", rows: append([]row{
		{"Cache and repositories", []panel{
			{title: "Answers from the cache, and past it", unit: "reqps", stack: true, series: []series{{sumRate("result", "seeder_cache_requests_total", `{instance=~"$instance"}`), "{{result}}"}}},
			{title: "Copies of a blob sent", about: "1 is the best there is. Which blobs: bytesGiven in seeder status --json.", series: quantiles("seeder_given_copies", `{instance=~"$instance"}`, "")},
			{title: "Collections", series: []series{{`sum by (result) (increase(seeder_local_collections_total{instance=~"$instance"}[1d]))`, "{{result}}"}}},
			{title: "Freed by collections", unit: "bytes", series: []series{{`increase(seeder_local_freed_bytes_total{instance=~"$instance"}[1d])`, "{{instance}}"}}},
			{title: "Local repositories", unit: "bytes", series: []series{{`seeder_local_linked_bytes{instance=~"$instance"}`, "content {{instance}}"}, {`seeder_local_trash_bytes{instance=~"$instance"}`, "trash {{instance}}"}}},
			{title: "Requests by who may", unit: "reqps", series: []series{{sumRate("outcome", "seeder_auth_requests_total", `{instance=~"$instance"}`), "{{outcome}}"}}},
			{title: "Days until the certificate ends", series: []series{{`(seeder_tls_certificate_expiry_seconds{instance=~"$instance"} - time()) / 86400`, "{{instance}}"}}},
			{title: "Events that wait", series: []series{{`seeder_events_pending{instance=~"$instance"}`, "{{endpoint}}"}}},
			{title: "Object store", series: []series{{`seeder_objectstore_up{instance=~"$instance"}`, "{{instance}} works"}}},
		}},
	}, node("seeder")...)},
}
