package monitoring

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// A board is one Grafana dashboard, as it is written here: titles, queries and
// units. What Grafana wants besides is the same for all.
type board struct {
	file, title, about string
	variable           string // query of the variable $instance; "": none
	rows               []row
}

type row struct {
	title  string
	panels []panel
}

// panel is a time series, or with stat a single number.
type panel struct {
	title, about, unit string
	stat               bool
	stack              bool
	series             []series
}

type series struct{ expr, legend string }

const columns = 24 // of Grafana's grid

// WriteDashboards writes each dashboard as a file of dir.
func WriteDashboards(dir string) error {
	for _, b := range boards {
		content, err := json.MarshalIndent(b.model(), "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, b.file), append(content, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// object is a JSON object; keys come out sorted, so files are the same each time.
type object = map[string]any

var source = object{"type": "prometheus", "uid": "${datasource}"}

// model is what Grafana imports (schema 38, Grafana 10 and later).
func (b board) model() object {
	variables := []object{{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}}
	if b.variable != "" {
		variables = append(variables, object{"name": "instance", "type": "query", "label": "Instance", "datasource": source,
			"query": object{"query": b.variable, "refId": "instance"}, "definition": b.variable, "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".+",
			"current": object{"selected": true, "text": "All", "value": "$__all"}})
	}
	return object{
		"uid": "samara-" + b.file[:len(b.file)-len(".json")], "title": b.title, "description": b.about, "tags": []string{"samara"},
		"schemaVersion": 38, "editable": true, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
		"time": object{"from": "now-6h", "to": "now"}, "templating": object{"list": variables}, "panels": b.panels(),
	}
}

func (b board) panels() []object {
	var out []object
	id, y := 0, 0
	for _, r := range b.rows {
		id++
		out = append(out, object{"id": id, "type": "row", "title": r.title, "collapsed": false, "panels": []object{},
			"gridPos": object{"x": 0, "y": y, "w": columns, "h": 1}})
		y++
		x, height := 0, 0
		for _, p := range r.panels {
			w, h := 8, 8
			if p.stat {
				w, h = 4, 4
			}
			if x+w > columns {
				x, y = 0, y+height
				height = 0
			}
			id++
			o := p.model()
			o["id"], o["gridPos"] = id, object{"x": x, "y": y, "w": w, "h": h}
			out = append(out, o)
			x, height = x+w, max(height, h)
		}
		y += height
	}
	return out
}

func (p panel) model() object {
	var targets []object
	for i, s := range p.series {
		targets = append(targets, object{"refId": string(rune('A' + i)), "expr": s.expr, "legendFormat": s.legend, "datasource": source, "range": !p.stat, "instant": p.stat})
	}
	defaults := object{"unit": p.unit, "min": 0}
	o := object{"title": p.title, "description": p.about, "datasource": source, "targets": targets,
		"fieldConfig": object{"defaults": defaults, "overrides": []object{}}}
	if p.stat {
		o["type"] = "stat"
		o["options"] = object{"reduceOptions": object{"calcs": []string{"lastNotNull"}}, "colorMode": "none", "graphMode": "none"}
		return o
	}
	o["type"] = "timeseries"
	custom := object{"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
	if p.stack {
		custom["fillOpacity"], custom["stacking"] = 60, object{"mode": "normal"}
	}
	defaults["custom"] = custom
	o["options"] = object{"legend": object{"displayMode": "list", "placement": "bottom"}, "tooltip": object{"mode": "multi", "sort": "desc"}}
	return o
}
