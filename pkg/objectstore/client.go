package objectstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"go.uber.org/zap"
)

// How long the store may take.
const (
	callTime    = 10 * time.Second // for a request with little content
	listTime    = 10 * time.Minute // for all pages of a list
	stallTime   = 8 * time.Second  // without a byte of a body that is read
	partSize    = 16 << 20         // bytes; what is larger goes up in parts
	partThreads = 4                // of one object at a time
	tries       = 3                // of one request
)

// Client is one bucket, below one prefix. Safe for concurrent use.
type Client struct {
	o         Options
	log       *zap.Logger
	core      minio.Core
	sse       encrypt.ServerSide
	transport *http.Transport
	rest      rest
	m         *metrics

	patience time.Duration // callTime, stallTime
	stall    time.Duration
}

// Object describes what lies under a key.
type Object struct {
	Key         string // below the prefix
	Size        int64
	ContentType string
	Source      string // where its content came from; see Put
}

// New makes a Client. It asks nobody anything yet.
func New(o Options) (*Client, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	host, secure, err := o.endpoint()
	if err != nil {
		return nil, fmt.Errorf("--object-store-endpoint: %w", err)
	}
	tlsConfig, err := o.tls()
	if err != nil {
		return nil, fmt.Errorf("--object-store-ca: %w", err)
	}
	c := &Client{o: o, log: o.Log, m: newMetrics(o.Registerer, o.Namespace), transport: newTransport(tlsConfig), patience: callTime, stall: stallTime}
	if c.sse, err = o.SSE.serverSide(); err != nil {
		return nil, fmt.Errorf("--object-store-sse: %w", err)
	}
	lookup := minio.BucketLookupAuto
	if o.PathStyle {
		lookup = minio.BucketLookupPath
	}
	client, err := minio.New(host, &minio.Options{
		Creds: o.keys(), Secure: secure, Region: o.Region, BucketLookup: lookup, MaxRetries: tries,
		Transport: &counting{next: c.transport, host: host, m: c.m},
	})
	if err != nil {
		return nil, fmt.Errorf("--object-store-endpoint: %w", err)
	}
	client.SetAppInfo("samara", "1")
	c.core = minio.Core{Client: client}
	return c, nil
}

// Location is what the Client was made with.
func (c *Client) Location() Location { return c.o.Location }

// Close closes connections that are idle. Calls must have ended before.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// call runs f with a deadline, unless the store is being left alone.
func (c *Client) call(ctx context.Context, op, key string, limit time.Duration, f func(context.Context) error) error {
	if err := c.rest.err(); err != nil {
		return &Error{Op: op, Location: c.o.Location, Key: key, Err: err}
	}
	cctx, cancel := context.WithTimeoutCause(ctx, limit, errStalled)
	defer cancel()
	err := c.explain(cctx, op, key, f(cctx))
	c.rest.judge(err)
	return err
}

// PutOptions say what is kept with an object.
type PutOptions struct {
	ContentType string
	Source      string // x-amz-meta-samara-source
}

func (c *Client) putOptions(o PutOptions) minio.PutObjectOptions {
	p := minio.PutObjectOptions{ContentType: o.ContentType, ServerSideEncryption: c.sse, PartSize: partSize, NumThreads: partThreads}
	if p.ContentType == "" {
		p.ContentType = "application/octet-stream"
	}
	if o.Source != "" {
		p.UserMetadata = map[string]string{sourceMeta: o.Source}
	}
	return p
}

const sourceMeta = "Samara-Source"

// Put writes an object of small content.
func (c *Client) Put(ctx context.Context, key string, content []byte, o PutOptions) error {
	err := c.call(ctx, "put", key, c.patience, func(ctx context.Context) error {
		_, err := c.core.Client.PutObject(ctx, c.o.Location.Bucket, c.o.Location.key(key), bytes.NewReader(content), int64(len(content)), c.putOptions(o))
		return err
	})
	if err == nil {
		c.m.bytes.WithLabelValues("out").Add(float64(len(content)))
	}
	return err
}

// PutFile writes a file of so many bytes, in parts where it is large. It takes
// as long as bytes move; a connection on which none do ends it.
func (c *Client) PutFile(ctx context.Context, key string, f *os.File, size int64, o PutOptions) error {
	if size <= partSize/4 {
		content := make([]byte, size)
		if _, err := f.ReadAt(content, 0); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("put %s: %w", key, err)
		}
		return c.Put(ctx, key, content, o)
	}
	err := c.call(ctx, "put", key, 24*time.Hour, func(ctx context.Context) error {
		up, err := c.core.Client.PutObject(ctx, c.o.Location.Bucket, c.o.Location.key(key), io.NewSectionReader(f, 0, size), size, c.putOptions(o))
		if err == nil && up.Size != size {
			err = fmt.Errorf("%d of %d bytes were written", up.Size, size)
		}
		return err
	})
	if err == nil {
		c.m.bytes.WithLabelValues("out").Add(float64(size))
	}
	return err
}

// Stat describes an object. Kinds: all.
func (c *Client) Stat(ctx context.Context, key string) (o Object, err error) {
	err = c.call(ctx, "head", key, c.patience, func(ctx context.Context) error {
		info, err := c.core.Client.StatObject(ctx, c.o.Location.Bucket, c.o.Location.key(key), minio.StatObjectOptions{})
		o = Object{Key: key, Size: info.Size, ContentType: info.ContentType, Source: info.UserMetadata[sourceMeta]}
		return err
	})
	return o, err
}

// Get reads an object of up to limit bytes.
func (c *Client) Get(ctx context.Context, key string, limit int64) (content []byte, o Object, err error) {
	err = c.call(ctx, "get", key, c.patience, func(ctx context.Context) error {
		body, info, _, err := c.core.GetObject(ctx, c.o.Location.Bucket, c.o.Location.key(key), minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer body.Close()
		if content, err = io.ReadAll(io.LimitReader(body, limit+1)); err != nil {
			return err
		}
		if int64(len(content)) > limit {
			return fmt.Errorf("it has more than %d bytes", limit)
		}
		o = Object{Key: key, Size: info.Size, ContentType: info.ContentType, Source: info.UserMetadata[sourceMeta]}
		return nil
	})
	c.m.bytes.WithLabelValues("in").Add(float64(len(content)))
	return content, o, err
}

// Remove removes an object; that there is none is no error.
func (c *Client) Remove(ctx context.Context, key string) error {
	err := c.call(ctx, "delete", key, c.patience, func(ctx context.Context) error {
		return c.core.Client.RemoveObject(ctx, c.o.Location.Bucket, c.o.Location.key(key), minio.RemoveObjectOptions{})
	})
	if err != nil && KindOf(err) == NotFound && !NoBucket(err) {
		return nil
	}
	return err
}

// List calls each for every object below a prefix of keys, in their order.
func (c *Client) List(ctx context.Context, prefix string, each func(Object) error) error {
	return c.call(ctx, "list", prefix, listTime, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for info := range c.core.Client.ListObjectsIter(ctx, c.o.Location.Bucket, minio.ListObjectsOptions{Prefix: c.o.Location.key(prefix), Recursive: true}) {
			if info.Err != nil {
				return info.Err
			}
			key := info.Key
			if c.o.Location.Prefix != "" {
				key = strings.TrimPrefix(key, c.o.Location.Prefix+"/")
			}
			if err := each(Object{Key: key, Size: info.Size}); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}

// AbortUploads ends the uploads in parts that an earlier process left
// half-way below a prefix of keys; it returns how many there were.
func (c *Client) AbortUploads(ctx context.Context, prefix string) (n int, err error) {
	err = c.call(ctx, "list-uploads", prefix, listTime, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for up := range c.core.Client.ListIncompleteUploads(ctx, c.o.Location.Bucket, c.o.Location.key(prefix), true) {
			if up.Err != nil {
				return up.Err
			}
			if err := c.core.AbortMultipartUpload(ctx, c.o.Location.Bucket, up.Key, up.UploadID); err != nil {
				return err
			}
			n++
		}
		return ctx.Err()
	})
	return n, err
}

// Presign makes a URL under which anybody can read an object for a while.
func (c *Client) Presign(ctx context.Context, key string, life time.Duration) (string, error) {
	u, err := c.core.Client.PresignedGetObject(ctx, c.o.Location.Bucket, c.o.Location.key(key), life, url.Values{})
	if err != nil {
		return "", c.explain(ctx, "presign", key, err)
	}
	return u.String(), nil
}
