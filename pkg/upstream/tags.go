package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

const (
	maxTagPage  = 4 << 20 // bytes of one page
	maxTagPages = 1000
	maxTags     = 500_000
)

// Tags lists a repository's tags, at most n of them (n <= 0: all, but no more
// than 500,000) and only those after last ("" = from the beginning). It
// follows the upstream's pages and keeps their order; a list that comes in one
// page is sorted. Names that cannot be tags are left out.
func (c *Client) Tags(ctx context.Context, name, repo string, n int, last string) ([]string, error) {
	e, err := c.find("tags", name, repo, "")
	if err != nil {
		return nil, err
	}
	if n <= 0 || n > maxTags {
		n = maxTags
	}
	q := url.Values{}
	if n < maxTags {
		q.Set("n", strconv.Itoa(n))
	}
	if last != "" {
		q.Set("last", last)
	}
	return each(e, func(u *upstream) ([]string, *Error) { return u.tags(ctx, repo, n, last, q) })
}

func (u *upstream) tags(ctx context.Context, repo string, n int, last string, q url.Values) ([]string, *Error) {
	tags := make([]string, 0)
	for pages := 1; ; pages++ {
		rq := &request{op: "tags", method: http.MethodGet, repo: repo, path: "tags/list", query: q}
		page, next, e := u.tagPage(ctx, rq)
		switch {
		case e != nil:
			return nil, e
		case next == nil && pages == 1:
			page = onePage(page, n, last)
		case next.Encode() == q.Encode():
			return nil, u.error(rq, &failure{kind: Corrupt, err: fmt.Errorf("a page of the list says that itself comes next")})
		}
		tags = append(tags, page...)
		if len(tags) >= n {
			return tags[:n], nil
		}
		if next == nil || pages == maxTagPages {
			return tags, nil
		}
		q = next
	}
}

// onePage puts a list in order that came in one piece. An upstream without
// pages (docker-registry 2.8) ignores n and last, which shows when there is
// more than n, or last itself.
func onePage(tags []string, n int, last string) []string {
	slices.Sort(tags)
	if len(tags) > n || slices.Contains(tags, last) {
		tags = slices.DeleteFunc(tags, func(t string) bool { return t <= last })
	}
	return tags
}

// tagPage gets one page and the query of the next, nil at the end.
func (u *upstream) tagPage(ctx context.Context, rq *request) ([]string, url.Values, *Error) {
	resp, e := u.do(ctx, rq)
	if e != nil {
		return nil, nil, e
	}
	defer resp.Close()
	content, err := io.ReadAll(io.LimitReader(resp.body, maxTagPage+1))
	if err != nil {
		return nil, nil, u.error(rq, networkFailure(ctx, err))
	}
	var list struct{ Tags []string }
	if len(content) > maxTagPage {
		err = fmt.Errorf("a page of the list is longer than %d MiB", maxTagPage>>20)
	} else if err = json.Unmarshal(content, &list); err != nil {
		err = fmt.Errorf("the list is not JSON")
	}
	if err != nil {
		return nil, nil, u.error(rq, &failure{kind: Corrupt, err: err})
	}
	next, _ := parseNextLink(resp.header["Link"])
	tags := slices.DeleteFunc(list.Tags, func(t string) bool { return !tagGrammar.MatchString(t) })
	return tags, next, nil
}
