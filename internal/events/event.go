package events

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// What can be done, and with what.
const (
	Push   = "push"
	Pull   = "pull"
	Delete = "delete"

	Manifest = "manifest"
	Blob     = "blob"
	Tag      = "tag"
)

// Event is one thing that happened. In a queue it is a line of JSON.
type Event struct {
	ID   string    `json:"id"` // the same in each delivery
	Time time.Time `json:"time"`

	Action     string        `json:"action"`     // push, pull, delete
	Kind       string        `json:"kind"`       // manifest, blob, tag
	Repository string        `json:"repository"` // its canonical name, as in rules
	Name       string        `json:"name"`       // as a client of this seeder may call it
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
	MediaType  string        `json:"mediaType,omitempty"`
	Size       int64         `json:"size,omitempty"`

	Reason string `json:"reason,omitempty"` // of a delete that no client asked for

	User      string `json:"user,omitempty"`
	Client    string `json:"client,omitempty"` // address
	Host      string `json:"host,omitempty"`   // by which the client knows this seeder
	URL       string `json:"url,omitempty"`    // of the content
	Method    string `json:"method,omitempty"`
	UserAgent string `json:"userAgent,omitempty"`
}

// subject is what the event is about, as people write it.
func (e *Event) subject() string {
	switch {
	case e.Tag != "":
		return e.Repository + ":" + e.Tag
	case e.Digest != "":
		return e.Repository + "@" + string(e.Digest)
	}
	return e.Repository
}

// The formats.
const (
	CloudEvents  = "cloudevents"
	Distribution = "distribution"

	typeCloudEvent  = "application/cloudevents+json; charset=utf-8"
	typeCloudEvents = "application/cloudevents-batch+json; charset=utf-8"
	typeEnvelope    = "application/vnd.docker.distribution.events.v1+json"
)

// cloudEvent is the structured JSON form of CloudEvents 1.0.
type cloudEvent struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Type        string    `json:"type"`
	Subject     string    `json:"subject"`
	Time        time.Time `json:"time"`
	ContentType string    `json:"datacontenttype"`
	Data        *Event    `json:"data"`
}

// envelope is that of distribution's notifications (docs.docker.com,
// "Work with notifications").
type envelope struct {
	Events []notification `json:"events"`
}

type notification struct {
	ID        string    `json:"id"`
	Timestamp time.Time `json:"timestamp"`
	Action    string    `json:"action"`
	Target    struct {
		MediaType  string        `json:"mediaType,omitempty"`
		Size       int64         `json:"size,omitempty"`
		Digest     digest.Digest `json:"digest,omitempty"`
		Length     int64         `json:"length,omitempty"` // the same as Size
		Repository string        `json:"repository"`
		URL        string        `json:"url,omitempty"`
		Tag        string        `json:"tag,omitempty"`
	} `json:"target"`
	Request struct {
		ID        string `json:"id"`
		Addr      string `json:"addr,omitempty"`
		Host      string `json:"host,omitempty"`
		Method    string `json:"method"`
		UserAgent string `json:"useragent"`
	} `json:"request"`
	Actor struct {
		Name string `json:"name,omitempty"`
	} `json:"actor"`
	Source struct {
		Addr       string `json:"addr,omitempty"`
		InstanceID string `json:"instanceID,omitempty"`
	} `json:"source"`
}

// encode makes the body of a delivery. Batched says that the endpoint takes
// several: one is then a list, too.
func encode(format, instance string, batched bool, list []*Event) (body []byte, contentType string, err error) {
	if format == Distribution {
		var env envelope
		for _, e := range list {
			env.Events = append(env.Events, notify(e, instance))
		}
		body, err = json.Marshal(env)
		return body, typeEnvelope, err
	}
	out := make([]cloudEvent, len(list))
	for i, e := range list {
		out[i] = cloudEvent{SpecVersion: "1.0", ID: e.ID, Source: "urn:samara:seeder:" + instance,
			Type: fmt.Sprintf("samara.%s.%s", e.Kind, e.Action), Subject: e.subject(), Time: e.Time, ContentType: "application/json", Data: e}
	}
	if !batched {
		body, err = json.Marshal(out[0])
		return body, typeCloudEvent, err
	}
	body, err = json.Marshal(out)
	return body, typeCloudEvents, err
}

func notify(e *Event, instance string) notification {
	n := notification{ID: e.ID, Timestamp: e.Time, Action: e.Action}
	t := &n.Target
	t.MediaType, t.Digest, t.Size, t.Length = e.MediaType, e.Digest, e.Size, e.Size
	if t.MediaType == "" && e.Kind == Blob {
		t.MediaType = "application/octet-stream"
	}
	t.Repository, t.Tag, t.URL = e.Name, e.Tag, e.URL
	n.Request.ID, n.Request.Addr, n.Request.Host, n.Request.Method, n.Request.UserAgent = e.ID, e.Client, e.Host, e.Method, e.UserAgent
	n.Actor.Name, n.Source.Addr, n.Source.InstanceID = e.User, e.Host, instance
	return n
}
