"""Words whose class the tagger often misses."""

from __future__ import annotations

Span = tuple[int, int]


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Nouns the tagger takes for verbs or adjectives.
NOUNS = words_of("""
    bear bears light lights remote remotes drink drinks stop fries surf ski skis bat bats glasses bite
    kids kid teen teens adult adults elderly female male blonde vegetables vegetable veggies cell
    microwave individual individuals giraffe giraffes frisbee frisbees skateboard skateboards snowboard
    snowboards surfboard surfboards toothbrush toothbrushes laptop laptops sink sinks track tracks net
    nets monitor monitors mirror mirrors sprinkles moped mopeds sled sleds cooler ostrich console match
""")


# Words in -ing that are things, not doings.
ING_NOUNS = words_of("""
    awning bedding being building buildings carving ceiling clothing drawing dressing duckling earring
    earrings evening filling flooring frosting icing king landing lighting morning packaging painting
    paintings parking pudding railing ring rings seedling siding sling spring string swing thing things
    topping toppings wedding wing wings wiring
""")


# Gerunds that make a compound with the noun after them.
ING_COMPOUNDS: dict[str, frozenset[str]] = {
    gerund: words_of(nouns)
    for gerund, nouns in {
        "baking": "pan sheet tray dish",
        "boarding": "gate pass bridge",
        "boxing": "ring gloves",
        "cutting": "board boards",
        "dining": "room table tables area hall chair chairs set",
        "fishing": "boat boats rod pole net",
        "frying": "pan pans",
        "ironing": "board",
        "living": "room rooms area space",
        "mixing": "bowl bowls",
        "parking": "lot lots meter meters garage space spot sign",
        "racing": "car cars bike",
        "rocking": "chair chairs horse",
        "rolling": "pin",
        "running": "shoes track water",
        "sewing": "machine",
        "shopping": "cart carts bag bags mall center",
        "sleeping": "bag bags",
        "steering": "wheel",
        "swimming": "pool suit trunks",
        "waiting": "room area",
        "walking": "stick path trail",
        "washing": "machine machines",
    }.items()
}


# Participles that describe the noun after them even where no determiner says so: they take no object.
INTRANSITIVE = words_of("""
    barking blooming burning crying dancing falling flying flowing glowing grazing jumping kneeling
    laughing lying meowing resting running screaming shining sitting sleeping smiling standing swimming
    yawning
""")


# Participles that tie the noun before them to the noun after: "a snow covered hill".
LINKING = words_of(
    "colored coloured covered filled flavored lined looking patterned shaped sized styled topped"
)


# Verbs the tagger takes for nouns when they follow one: "a man walks", "two people walk".
VERBS = words_of("""
    approach attempt bend bite board board bowl brush carry catch chase check chew climb crash cross cut
    dance dive drink drive eat enjoy fall feed fish fight flip float fly gather gaze glide graze grind
    hang head help hike hit hold jump kick kiss kneel land laugh lay lead lean leap lie lift look lounge
    make march nap nuzzle pack paddle park perch pet pitch play point pose post practice prepare pull
    push race raise reach read relax rest ride roll row run sail share show sit skate skateboard ski
    sleep slide smell smile sniff snowboard splash stand stare steer stick stretch stroll surf swim
    swing take talk throw tie touch tow travel use view wait wake walk wash watch wave wear wade work
    yawn
""")


# Where in the picture or on a thing: modifiers ("the front door"), never what a phrase is about.
LOCATIONS = words_of("""
    top bottom front back side sides left right middle center centre edge end corner inside outside
    background foreground distance rear beside behind above below underneath upside next close other
    opposite direction way air midair
""")


# Those that head a compound: "street corner", "table top".
HEAD_LOCATIONS = words_of("top side edge corner center centre end way")


PRONOUNS = words_of("""
    i me you he him she her hers it its they them theirs we us mine yours who whom whose which what
    there here this these those that one ones others someone somebody something anyone anything everyone
    everything nothing nobody itself himself herself themselves myself yourself ourselves while when
    where
""")


SUBJECTS = words_of("to i we you he she it they who that")


# Before a participle these stand for whoever does it: "men all holding bats".
LOOSE = words_of("all both each some together while")


AUXILIARIES = words_of(
    "is are was were be been am has have had do does did can could will would may might must"
)


DETERMINERS = words_of("""
    a an the this that these those some any no every each all both several many few various multiple
    numerous another my your his her its our their two three four five six seven eight nine ten
""")


# Nouns that only measure or hold the noun after "of".
QUANTITIES = words_of("""
    amount amounts array assortment bag bags basket baskets bed bit block body bottle bottles bouquet
    bowl bowls box boxes bucket bunch bunches can cans carton case cluster collection container
    containers couple crate crowd cup cups dozen dozens fleet flock glass glasses group groups half herd
    jar jars kind line loaf lot lots mound mug number order pack package pair pairs patch piece pieces
    pile piles pitcher plate plates platter pot row rows school selection series set sheet slice slices
    sort spool stack stacks strip swarm team tray trays trio type types variety vase vases
""")


# The picture itself, when "of" follows.
PICTURES = words_of("""
    collage picture pictures photo photos photograph photographs image images view views shot snapshot
    close-up closeup portrait scene drawing painting
""")


# Colours and materials that are nouns too: "an orange", but "orange and white cat".
COLOR_NOUNS = words_of(
    "orange gold silver rose peach pink purple violet tan wood metal brick stone glass brass"
)


COLORS = words_of("""
    red green blue yellow black white brown grey gray beige golden wooden metallic striped spotted plaid
    colorful colourful dark bright pale light
""")


FIXED_CLASSES = {"of": "O", "and": "C", "or": "C", "&": "C", ",": ","}
