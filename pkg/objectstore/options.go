package objectstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Options of a Client. Location is required.
type Options struct {
	Location Location
	// Endpoint is the URL of the S3 API; "" is AWS's of the region.
	Endpoint string
	Region   string // "" asks the store
	// PathStyle has the bucket in the path and not in the host name.
	PathStyle bool
	SSE       SSE
	// CredentialsFile has the form of AWS's shared credentials; "" looks in the
	// environment, in AWS's own files, and asks the machine's role (IAM).
	CredentialsFile string
	CAFile          string // PEM, besides the system's authorities

	Log        *zap.Logger // default: none
	Registerer prometheus.Registerer
	Namespace  string
}

// Location is a bucket and a prefix of keys in it.
type Location struct{ Bucket, Prefix string }

// ParseLocation reads s3://BUCKET/PREFIX.
func ParseLocation(s string) (Location, error) {
	rest, ok := strings.CutPrefix(s, "s3://")
	if !ok {
		return Location{}, fmt.Errorf("%q does not begin with s3://", s)
	}
	bucket, prefix, _ := strings.Cut(rest, "/")
	if err := s3utils.CheckValidBucketNameStrict(bucket); err != nil {
		return Location{}, fmt.Errorf("bucket %q: %w", bucket, err)
	}
	prefix = strings.Trim(prefix, "/")
	if strings.ContainsFunc(prefix, func(r rune) bool { return r <= ' ' || r == '?' || r == '#' || r == '\\' || r > '~' }) ||
		strings.Contains("/"+prefix+"/", "/../") || strings.Contains("/"+prefix+"/", "/./") || strings.Contains(prefix, "//") {
		return Location{}, fmt.Errorf("prefix %q: use letters, digits, '-', '_', '.' and single '/'", prefix)
	}
	return Location{Bucket: bucket, Prefix: prefix}, nil
}

// String is s3://BUCKET/PREFIX.
func (l Location) String() string {
	return strings.TrimSuffix("s3://"+l.Bucket+"/"+l.Prefix, "/")
}

func (l Location) key(name string) string {
	if l.Prefix == "" {
		return name
	}
	return l.Prefix + "/" + name
}

// SSE is how the store is told to encrypt what it is given. The zero value
// says nothing about it.
type SSE struct {
	S3     bool   // with keys of the store's own
	KMS    bool   // with a key management service
	KMSKey string // its key; "" is the bucket's default
}

// ParseSSE reads "", "s3", "kms" or "kms:KEY".
func ParseSSE(s string) (SSE, error) {
	kind, key, has := strings.Cut(s, ":")
	switch {
	case s == "":
		return SSE{}, nil
	case kind == "s3" && !has:
		return SSE{S3: true}, nil
	case kind == "kms" && (!has || key != ""):
		return SSE{KMS: true, KMSKey: key}, nil
	}
	return SSE{}, fmt.Errorf("%q: want s3, kms or kms:KEY", s)
}

func (s SSE) serverSide() (encrypt.ServerSide, error) {
	switch {
	case s.S3:
		return encrypt.NewSSE(), nil
	case s.KMS:
		return encrypt.NewSSEKMS(s.KMSKey, nil)
	}
	return nil, nil
}

// ParseEndpoint reads the URL of an S3 API: its host, and whether it has TLS.
func ParseEndpoint(s string) (host string, secure bool, err error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", false, errors.New("it is no URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return "", false, errors.New("it does not begin with https://HOST or http://HOST")
	case u.User != nil:
		return "", false, errors.New("it holds credentials")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", false, errors.New("it has more than a host and a port; the bucket goes into s3://BUCKET/PREFIX")
	}
	return u.Host, u.Scheme == "https", nil
}

func (o *Options) endpoint() (host string, secure bool, err error) {
	if o.Endpoint != "" {
		return ParseEndpoint(o.Endpoint)
	}
	if o.Region != "" {
		return "s3." + o.Region + ".amazonaws.com", true, nil
	}
	return "s3.amazonaws.com", true, nil
}

// CheckCredentials tells what is wrong with a credentials file.
func CheckCredentials(path string) error {
	v, err := (&credentials.FileAWSCredentials{Filename: path}).RetrieveWithCredContext(nil)
	switch {
	case err != nil:
		if _, oerr := os.ReadFile(path); oerr != nil {
			return oerr
		}
		return errors.New("it is not in the form of AWS's shared credentials") // the reason may quote a secret
	case v.AccessKeyID == "" || v.SecretAccessKey == "":
		return errors.New("its profile has no aws_access_key_id or no aws_secret_access_key")
	}
	return nil
}

// keys are where credentials come from, in this order.
func (o *Options) keys() *credentials.Credentials {
	if o.CredentialsFile != "" {
		return credentials.New(&credentials.FileAWSCredentials{Filename: o.CredentialsFile})
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.EnvMinio{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
	})
}

func (o *Options) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, err
	}
	if c.RootCAs, err = x509.SystemCertPool(); err != nil {
		c.RootCAs = x509.NewCertPool()
	}
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", o.CAFile)
	}
	return c, nil
}
