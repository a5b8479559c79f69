package main

import (
	"bytes"
	_ "embed" // the template
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/google/renameio/v2"
)

// The layout of a plot in pixels: figures below each other, each with a title, two
// panels over one time axis and, where systems are compared, bars.
const (
	plotWidth   = 920
	plotLeft    = 80
	panelWidth  = 800
	panelHeight = 200
	headHeight  = 90  // title and first panel's own title
	panelStep   = 270 // from one panel's top to the next one's
	barStep     = 28
)

//go:embed plot.svg.tmpl
var plotText string

var plotTemplate = template.Must(template.New("plot").Funcs(template.FuncMap{
	"num":  func(x float64) string { return fmt.Sprintf("%.1f", x) },
	"half": func(n int) int { return n / 2 },
}).Parse(plotText))

// figure is one scenario's part of a plot.
type figure struct {
	Top             int
	Title, Subtitle string
	Panels          []panel
	Bars            *bars
}

// height is what the figure takes, the room to the next one included.
func (f figure) height() int {
	h := headHeight + len(f.Panels)*panelStep
	if f.Bars != nil {
		h += f.Bars.Height + 40
	}
	return h
}

// panel is one set of axes. Positions are relative to its upper left corner.
type panel struct {
	Top            int
	Title          string
	XUnit, YUnit   string
	XTicks, YTicks []tick
	Lines          []line
	Legend         []legend
	Marks          []tick // vertical lines with a label

	x, y float64 // the greatest values shown
}

type tick struct {
	At    float64
	Label string
}

type line struct {
	Path, Color   string
	Width         float64
	Dash, Opacity string
}

type legend struct {
	Name, Color     string
	Width           float64
	Dash, Opacity   string
	X, Swatch, Text float64
}

// bars compares figures of which less is better.
type bars struct {
	Top, Height int
	Title       string
	Bound       float64 // where 1 is
	Bars        []bar
}

type bar struct {
	Y                 int
	Name, Value, Note string
	Length            float64
	Color             string
	value             float64
}

// newPanel has axes from 0 to x and 0 to y.
func newPanel(index int, title, yUnit string, x, y float64) panel {
	p := panel{Top: headHeight + index*panelStep, Title: title, YUnit: yUnit, x: x, y: y}
	for _, v := range ticks(x, 10) {
		p.XTicks = append(p.XTicks, tick{v / x * panelWidth, fmt.Sprintf("%g", v)})
	}
	for _, v := range ticks(y, 6) {
		p.YTicks = append(p.YTicks, tick{panelHeight - v/y*panelHeight, fmt.Sprintf("%g", v)})
	}
	return p
}

// mark draws a vertical line.
func (p *panel) mark(x float64, label string) {
	p.Marks = append(p.Marks, tick{x / p.x * panelWidth, label})
}

// pair is a point in the panel's own units.
type pair struct{ x, y float64 }

// add draws a line through the points; with a name it is in the legend.
func (p *panel) add(name string, style line, points []pair) {
	var b strings.Builder
	for i, q := range points {
		cmd := "L"
		if i == 0 {
			cmd = "M"
		}
		fmt.Fprintf(&b, "%s%.1f %.1f", cmd, min(q.x, p.x)/p.x*panelWidth, panelHeight-min(max(q.y, 0), p.y)/p.y*panelHeight)
	}
	style.Path = b.String()
	p.Lines = append(p.Lines, style)
	if name != "" {
		p.Legend = append(p.Legend, legend{Name: name, Color: style.Color, Width: style.Width, Dash: style.Dash, Opacity: style.Opacity})
	}
}

// layLegend puts the legend at the right end of the title's line.
func (p *panel) layLegend() {
	const perLetter, swatch, gap = 6.4, 20, 18
	at := float64(panelWidth)
	for i := len(p.Legend) - 1; i >= 0; i-- {
		l := &p.Legend[i]
		l.Text = at - perLetter*float64(len(l.Name))
		l.Swatch = l.Text - 6
		l.X = l.Swatch - swatch
		at = l.X - gap
	}
}

// ticks are round values from 0 to limit, about n of them.
func ticks(limit float64, n int) []float64 {
	if limit <= 0 {
		return nil
	}
	raw := limit / float64(n)
	step := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, f := range []float64{1, 2, 5, 10} {
		if step*f >= raw {
			step *= f
			break
		}
	}
	var at []float64
	for i := 0; float64(i)*step <= limit*1.0001; i++ {
		at = append(at, float64(i)*step)
	}
	return at
}

// lay gives every bar its place and length.
func (b *bars) lay() {
	const room = 330 // for the text behind the longest
	longest := 1.0
	for _, x := range b.Bars {
		longest = max(longest, x.value)
	}
	scale := (panelWidth - room) / longest
	for i := range b.Bars {
		b.Bars[i].Y = i * barStep
		b.Bars[i].Length = b.Bars[i].value * scale
		b.Bars[i].Value = fmt.Sprintf("%.2fx", b.Bars[i].value)
	}
	b.Bound, b.Height = scale, len(b.Bars)*barStep
}

// render draws figures below each other.
func render(figures []figure) ([]byte, error) {
	height := 0
	for i := range figures {
		figures[i].Top = height
		height += figures[i].height()
	}
	var out bytes.Buffer
	err := plotTemplate.Execute(&out, map[string]any{
		"Width": plotWidth, "Height": height, "Left": plotLeft, "PanelWidth": panelWidth, "PanelHeight": panelHeight, "Figures": figures,
	})
	return out.Bytes(), err
}

// writePlots writes all figures to a file that ends in .svg, else each to a file of
// its name in a directory.
func writePlots(path string, names []string, figures []figure) error {
	files := map[string][]figure{path: figures}
	if filepath.Ext(path) != ".svg" {
		delete(files, path)
		for i, name := range names {
			files[filepath.Join(path, name+".svg")] = figures[i : i+1]
		}
	}
	for file, figs := range files {
		text, err := render(figs)
		if err == nil {
			err = renameio.WriteFile(file, text, 0o644)
		}
		if err != nil {
			return fmt.Errorf("write plot: %w", err)
		}
	}
	return nil
}
