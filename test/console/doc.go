// Package console tries the seeder's console in a real Chromium: a seeder, hosts
// that pull, and a page that a script (page.mjs, by playwright-core) uses as a
// person does. axe-core looks at each view, in light and dark. It is skipped where
// Chromium, Node or the packages of package.json are missing; `make console-tools`
// gets them.
package console
