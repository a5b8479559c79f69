package config

import (
	"fmt"
	"os"

	"github.com/samara-p2p/samara/pkg/objectstore"
)

// ObjectStore is what a seeder is told about an object store that keeps its
// content for good (docs/objectstore.md).
type ObjectStore struct {
	Bucket                string `name:"object-store" group:"Object store" help:"s3://BUCKET/PREFIX where content and repositories are kept for good; the data directory is then a cache, bounded by --quota (docs/objectstore.md)"`
	BucketEndpoint        string `name:"object-store-endpoint" group:"Object store" help:"URL of the S3 API, like https://minio.example.org:9000; by itself AWS's"`
	BucketRegion          string `name:"object-store-region" group:"Object store" help:"the bucket's region; by itself the object store is asked"`
	BucketPathStyle       bool   `name:"object-store-path-style" group:"Object store" help:"name the bucket in the path of URLs and not in the host name, as MinIO and Ceph mostly need it"`
	BucketSSE             string `name:"object-store-sse" group:"Object store" help:"have the object store encrypt what it keeps: s3 (SSE-S3), kms or kms:KEY (SSE-KMS); by itself what the bucket does"`
	BucketCredentialsFile string `name:"object-store-credentials" group:"Object store" help:"file in the form of AWS's shared credentials; by itself the environment, ~/.aws/credentials, then the role of the machine or pod"`
	BucketCA              string `name:"object-store-ca" group:"Object store" help:"PEM file of authorities for --object-store-endpoint, besides the system's"`
	BucketCopyPulled      bool   `name:"object-store-copy-pulled" group:"Object store" help:"copy what is pulled through the seeder into the object store, too, so that it need not come from its upstream again"`
	BucketRedirect        bool   `name:"object-store-redirect" group:"Object store" help:"send clients that ask the seeder itself for a blob to the object store by a URL signed for them; peers never; the bytes then bypass the swarm"`
}

func defaultObjectStore() ObjectStore { return ObjectStore{BucketCopyPulled: true} }

// Options says the same in the words of pkg/objectstore, where there is an
// object store.
func (c *ObjectStore) Options() (objectstore.Options, error) {
	l, err := objectstore.ParseLocation(c.Bucket)
	if err != nil {
		return objectstore.Options{}, err
	}
	sse, err := objectstore.ParseSSE(c.BucketSSE)
	return objectstore.Options{
		Location: l, Endpoint: c.BucketEndpoint, Region: c.BucketRegion, PathStyle: c.BucketPathStyle,
		SSE: sse, CredentialsFile: c.BucketCredentialsFile, CAFile: c.BucketCA,
	}, err
}

func (c *ObjectStore) objectStoreProblems() []Problem {
	var ps []Problem
	add := func(name, what, fix string) {
		ps = append(ps, Problem{Where: "--object-store" + name, What: what, Fix: fix})
	}
	if c.Bucket == "" {
		if c.BucketEndpoint != "" || c.BucketSSE != "" || c.BucketCredentialsFile != "" || c.BucketRedirect {
			add("", "not given, and other settings of an object store are", "give --object-store s3://BUCKET/PREFIX")
		}
		return ps
	}
	if _, err := objectstore.ParseLocation(c.Bucket); err != nil {
		add("", err.Error(), "give s3://BUCKET/PREFIX, like s3://registry/production")
	}
	if c.BucketEndpoint != "" {
		if _, _, err := objectstore.ParseEndpoint(c.BucketEndpoint); err != nil {
			add("-endpoint", fmt.Sprintf("%q: %v", redact(c.BucketEndpoint), err), "give a URL like https://minio.example.org:9000; credentials go into a file or the environment")
		}
	}
	if _, err := objectstore.ParseSSE(c.BucketSSE); err != nil {
		add("-sse", err.Error(), "give s3, kms, or kms: and the key's ID")
	}
	if c.BucketCredentialsFile != "" {
		if err := objectstore.CheckCredentials(c.BucketCredentialsFile); err != nil {
			add("-credentials", fmt.Sprintf("%s: %v", c.BucketCredentialsFile, bare(err)), "give a file with [default], aws_access_key_id and aws_secret_access_key that this user can read")
		}
	}
	if c.BucketCA != "" {
		if _, err := os.ReadFile(c.BucketCA); err != nil {
			add("-ca", fmt.Sprintf("%s: %v", c.BucketCA, bare(err)), "give a PEM file that this user can read")
		}
	}
	return ps
}

// objectStoreWarnings are settings that may be meant but often are not.
func (c *ObjectStore) objectStoreWarnings(quota ByteSize) []Problem {
	if c.Bucket == "" {
		return nil
	}
	var ps []Problem
	if quota == 0 {
		ps = append(ps, Problem{Where: "--quota", What: "not given: the cache before the object store grows until the disk is full", Fix: "give the bytes that it may take, like --quota 100GiB"})
	}
	return ps
}
